{{/* Names, labels and images. Every object's name starts with the release's. */}}

{{- define "expertmesh.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "expertmesh.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "expertmesh.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "expertmesh.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.gateway.name" -}}{{ include "expertmesh.fullname" . }}-gateway{{- end -}}

{{- define "expertmesh.apiKeys.secretName" -}}
{{- .Values.gateway.apiKeys.secretName | default (printf "%s-api-keys" (include "expertmesh.fullname" .)) -}}
{{- end -}}

{{- define "expertmesh.hasApiKeys" -}}
{{- if or .Values.gateway.apiKeys.secretName .Values.gateway.apiKeys.keys }}true{{ end -}}
{{- end -}}

{{- define "expertmesh.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "expertmesh.gateway.name" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* What never changes about an object's pods: (dict "root" $ "component" "expert" "group" "e0"), group optional. */}}
{{- define "expertmesh.selectorLabels" -}}
app.kubernetes.io/name: {{ include "expertmesh.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .group }}
expertmesh/group: {{ . }}
{{- end }}
{{- end -}}

{{- define "expertmesh.labels" -}}
{{ include "expertmesh.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* (dict "root" $ "repository" "expertmesh-gateway") */}}
{{- define "expertmesh.image" -}}
{{- $image := .root.Values.image -}}
{{- $name := printf "%s:%s" .repository (default .root.Chart.AppVersion $image.tag) -}}
{{- if $image.registry }}{{ printf "%s/%s" (trimSuffix "/" $image.registry) $name }}{{ else }}{{ $name }}{{ end -}}
{{- end -}}
