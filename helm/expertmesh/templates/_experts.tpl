{{/* Expert groups: the map of values merged over the defaults, and what follows from it. */}}

{{/* Merge map .over into map .base, key by key; unlike mergeOverwrite, 0, false and "" replace too. */}}
{{- define "expertmesh.merge" -}}
{{- $merged := deepCopy .base -}}
{{- range $key, $value := .over -}}
{{- $old := get $merged $key -}}
{{- if and (kindIs "map" $value) (kindIs "map" $old) -}}
{{- $value = include "expertmesh.merge" (dict "base" $old "over" $value) | fromYaml -}}
{{- end -}}
{{- $_ := set $merged $key $value -}}
{{- end -}}
{{- toYaml $merged -}}
{{- end -}}

{{/* All groups as one YAML map from name to merged values. */}}
{{- define "expertmesh.groups" -}}
{{- $groups := dict -}}
{{- range $name, $group := .Values.experts.groups -}}
{{- $_ := set $groups $name (include "expertmesh.merge" (dict "base" $.Values.experts.defaults "over" $group) | fromYaml) -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}

{{- define "expertmesh.group.name" -}}{{ include "expertmesh.fullname" .root }}-{{ .group }}{{- end -}}

{{/* The experts of a group as numbers with spaces between: "0,3-5" gives "0 3 4 5". */}}
{{- define "expertmesh.expertIds" -}}
{{- $ids := list -}}
{{- range splitList "," (toString .) -}}
{{- $ends := splitList "-" . -}}
{{- range untilStep (first $ends | int) (last $ends | int | add1 | int) 1 -}}
{{- $ids = append $ids . -}}
{{- end -}}
{{- end -}}
{{- join " " $ids -}}
{{- end -}}

{{/* Least number of replicas that the group will have. */}}
{{- define "expertmesh.group.min" -}}
{{- ternary .replicas .autoscaling.min (eq .autoscaling.kind "none") -}}
{{- end -}}

{{/* What the gateway is told about where expert servers are: a value of `expertmesh gateway --experts`. */}}
{{- define "expertmesh.endpoints" -}}
{{- if eq .Values.discovery.kind "kubernetes" -}}
{{- $labels := include "expertmesh.selectorLabels" (dict "root" . "component" "expert") | fromYaml -}}
{{- $requirements := list -}}
{{- range $key, $value := $labels -}}
{{- $requirements = append $requirements (printf "%s=%s" $key $value) -}}
{{- end -}}
{{- printf "kubernetes://%s/?selector=%s&port=grpc" .Release.Namespace (join "," $requirements) -}}
{{- else -}}
{{- $names := list -}}
{{- range $name, $_ := .Values.experts.groups -}}
{{- $service := include "expertmesh.group.name" (dict "root" $ "group" $name) -}}
{{- $names = append $names (printf "%s:%v" $service $.Values.experts.ports.grpc) -}}
{{- end -}}
{{- printf "dns://%s" (join "," $names) -}}
{{- end -}}
{{- end -}}
