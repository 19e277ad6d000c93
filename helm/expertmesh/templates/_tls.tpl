{{/* TLS: which Secrets hold certificates, which names are in them, and what containers are told of both. */}}

{{- define "expertmesh.tls.directory" -}}/etc/expertmesh-tls{{- end -}}

{{/* (dict "root" $ "role" "gateway" or "experts"): the Secret with tls.crt, tls.key and ca.crt of these pods. */}}
{{- define "expertmesh.tls.secretName" -}}
{{- get .root.Values.tls.existingSecrets .role | default (printf "%s-%s-tls" (include "expertmesh.fullname" .root) .role) -}}
{{- end -}}

{{/* The gateway's own name, by which expert servers know it. */}}
{{- define "expertmesh.tls.gatewayName" -}}
{{- printf "%s.%s.svc" (include "expertmesh.gateway.name" .) .Release.Namespace -}}
{{- end -}}

{{/* One name for all expert servers: the gateway calls them by their addresses, which no certificate has. */}}
{{- define "expertmesh.tls.expertsName" -}}
{{- .Values.tls.expertsName | default (printf "%s-experts.%s.svc" (include "expertmesh.fullname" .) .Release.Namespace) -}}
{{- end -}}

{{- define "expertmesh.tls.server.env" -}}
{{- $directory := include "expertmesh.tls.directory" . -}}
- {name: EXPERTMESH_TLS_CERT, value: {{ $directory }}/tls.crt}
- {name: EXPERTMESH_TLS_KEY, value: {{ $directory }}/tls.key}
{{- if .clientCertificates }}
- {name: EXPERTMESH_TLS_CLIENT_CA, value: {{ $directory }}/ca.crt}
{{- end }}
{{- end -}}

{{- define "expertmesh.tls.mount" -}}
- {name: tls, mountPath: {{ include "expertmesh.tls.directory" . }}, readOnly: true}
{{- end -}}

{{/* (dict "root" $ "role" ..) */}}
{{- define "expertmesh.tls.volume" -}}
- {name: tls, secret: {secretName: {{ include "expertmesh.tls.secretName" . }}}}
{{- end -}}

{{/* (dict "root" $ "role" .. "labels" .. "names" (list ..)): a Certificate that cert-manager keeps, if it shall. */}}
{{- define "expertmesh.tls.certificate" -}}
{{- $tls := .root.Values.tls -}}
{{- if and $tls.enabled $tls.certManager.issuerRef.name -}}
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: {{ include "expertmesh.fullname" .root }}-{{ .role }}
  labels:
    {{- include "expertmesh.labels" .labels | nindent 4 }}
spec:
  secretName: {{ include "expertmesh.tls.secretName" . }}
  issuerRef:
    {{- toYaml $tls.certManager.issuerRef | nindent 4 }}
  dnsNames:
    {{- toYaml .names | nindent 4 }}
  duration: {{ $tls.certManager.duration }}
  renewBefore: {{ $tls.certManager.renewBefore }}
  privateKey: {algorithm: ECDSA, size: 256, rotationPolicy: Always}
  usages: [digital signature, server auth, client auth]
{{- end -}}
{{- end -}}
