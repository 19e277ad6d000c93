{{/* What pods of both roles have in common. `role` is the values of a role: gateway, or one merged expert group. */}}

{{/* Seconds that a server gets to finish its work after SIGTERM; 5 more are left to end before SIGKILL. */}}
{{- define "expertmesh.drainSeconds" -}}
{{- sub .terminationGracePeriodSeconds (add .preStopSeconds 5) -}}
{{- end -}}

{{/* Not auto: a pod that asks for a GPU and gets none must not serve from its CPU. */}}
{{- define "expertmesh.device" -}}
{{- .device | default (ternary "cuda" "cpu" (gt (int .gpu.count) 0)) -}}
{{- end -}}

{{/* (dict "root" $ "role" .. "labels" (dict "root" .. "component" ..)) */}}
{{- define "expertmesh.pod.settings" -}}
automountServiceAccountToken: {{ and (eq .labels.component "gateway") (eq .root.Values.discovery.kind "kubernetes") }}
enableServiceLinks: false  # their variables, such as EXPERTMESH_PORT, would look like flags
terminationGracePeriodSeconds: {{ .role.terminationGracePeriodSeconds }}
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .role.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .role.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $.role $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with .role.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{ merge (dict) . (dict "labelSelector" (dict "matchLabels" (include "expertmesh.selectorLabels" $.labels | fromYaml))) | toYaml | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Argument: whether the root file system is read-only. */}}
{{- define "expertmesh.container.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: {{ . }}
capabilities: {drop: [ALL]}
{{- end -}}

{{/*
(dict "role" .. "port" 50061 "readiness" "readiness"): native gRPC probes, at the port where there is nothing but health: it
needs no certificate, and clients cannot take all its connections. A gateway's readiness waits for a replica of every expert,
once: were it to follow them, all gateways would leave their Service together when one expert restarts.
*/}}
{{- define "expertmesh.container.probes" -}}
startupProbe:
  grpc: {port: {{ .port }}, service: liveness}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: {{ div (add .role.startupSeconds 9) 10 }}
livenessProbe:
  grpc: {port: {{ .port }}, service: liveness}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  grpc: {port: {{ .port }}{{ with .readiness }}, service: {{ . }}{{ end }}}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 2
lifecycle:
  preStop:
    exec: {command: [sleep, {{ .role.preStopSeconds | quote }}]}
{{- end -}}

{{- define "expertmesh.container.resources" -}}
{{- $gpus := ternary (dict .gpu.resource .gpu.count) dict (gt (int .gpu.count) 0) -}}
{{- $limits := merge (dict) $gpus (.resources.limits | default dict) -}}
{{- toYaml (merge (dict "limits" $limits) (omit .resources "limits")) -}}
{{- end -}}

{{/* Environment of both roles: every flag of the command line has a variable. */}}
{{- define "expertmesh.container.env" -}}
- {name: EXPERTMESH_MODEL, value: {{ .root.Values.model.inImage.path | default "/model" }}}
- {name: EXPERTMESH_QUANTIZE, value: {{ .root.Values.model.quantize }}}
- {name: EXPERTMESH_DEVICE, value: {{ include "expertmesh.device" .role | quote }}}
- {name: EXPERTMESH_BACKEND, value: {{ .role.backend }}}
- {name: EXPERTMESH_ISA, value: {{ .role.isa }}}
- {name: EXPERTMESH_THREADS, value: {{ .role.threads | quote }}}
- {name: EXPERTMESH_CUDA_GRAPHS, value: {{ .role.cudaGraphs | quote }}}
- {name: EXPERTMESH_DRAIN_SECONDS, value: {{ include "expertmesh.drainSeconds" .role | quote }}}
- {name: EXPERTMESH_LOG_LEVEL, value: {{ .role.logLevel }}}
{{- with .root.Values.tracing.endpoint }}
- {name: EXPERTMESH_TRACE_ENDPOINT, value: {{ . | quote }}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: OTEL_RESOURCE_ATTRIBUTES, value: "k8s.namespace.name={{ $.root.Release.Namespace }},k8s.pod.name=$(POD_NAME)"}
{{- end }}
- {name: XDG_CACHE_HOME, value: /cache}
- {name: TRITON_CACHE_DIR, value: /cache/triton}
- {name: HOME, value: /cache}
{{- with .role.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "expertmesh.container.mounts" -}}
- {name: cache, mountPath: /cache}
- {name: tmp, mountPath: /tmp}
{{- if not .root.Values.model.inImage.path }}
- name: model
  mountPath: /model
  readOnly: true
  {{- with .root.Values.model.pvc.subPath }}
  subPath: {{ . }}
  {{- end }}
{{- end }}
{{- if .root.Values.tls.enabled }}
{{ include "expertmesh.tls.mount" . }}
{{- end }}
{{- with .role.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "expertmesh.pod.volumes" -}}
{{- $model := .root.Values.model -}}
- {name: cache, emptyDir: {}}
- {name: tmp, emptyDir: {}}
{{- if $model.pvc.claimName }}
- {name: model, persistentVolumeClaim: {claimName: {{ $model.pvc.claimName }}, readOnly: true}}
{{- else if $model.hostPath.path }}
- {name: model, hostPath: {path: {{ $model.hostPath.path }}, type: Directory}}
{{- else if $model.fetch.baseUrl }}
- {name: model, emptyDir: {sizeLimit: {{ $model.fetch.sizeLimit }}}}
{{- end }}
{{- if .root.Values.tls.enabled }}
{{ include "expertmesh.tls.volume" (dict "root" .root "role" (ternary "gateway" "experts" (eq .labels.component "gateway"))) }}
{{- end }}
{{- with .role.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* (dict "root" $ "role" .. "files" (list ..)): an init container that fetches these files, where that is the source. */}}
{{- define "expertmesh.pod.fetch" -}}
{{- $fetch := .root.Values.model.fetch -}}
{{- if $fetch.baseUrl -}}
initContainers:
  - name: fetch
    image: {{ $fetch.image }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    command:
      {{- toYaml $fetch.command | nindent 6 }}
    env:
      - {name: BASE_URL, value: {{ trimSuffix "/" $fetch.baseUrl | quote }}}
      - {name: FILES, value: {{ join " " .files | quote }}}
      - {name: MODEL, value: /model}
      {{- with $fetch.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    securityContext:
      {{- include "expertmesh.container.securityContext" true | nindent 6 }}
    volumeMounts:
      - {name: model, mountPath: /model}
      {{- with .role.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
{{- end }}
{{- end -}}
