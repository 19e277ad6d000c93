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
{{- range $name, $group := include "expertmesh.groups.given" . | fromYaml -}}
{{- $_ := set $groups $name (include "expertmesh.merge" (dict "base" $.Values.experts.defaults "over" $group) | fromYaml) -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}

{{/* The groups of values, and e0, e1 and so on for experts that none of them names: one for each perGroup experts. */}}
{{- define "expertmesh.groups.given" -}}
{{- $groups := dict -}}
{{- $named := list -}}
{{- range $name, $group := .Values.experts.groups -}}
{{- if $group -}}
{{- $_ := set $groups $name $group -}}
{{- $named = concat $named (splitList " " (include "expertmesh.expertIds" (get $group "experts"))) -}}
{{- end -}}
{{- end -}}
{{- $numExperts := int .Values.model.numExperts -}}
{{- $perGroup := int .Values.experts.perGroup -}}
{{- range $first := untilStep 0 $numExperts $perGroup -}}
{{- $left := list -}}
{{- range $expert := untilStep $first (min (add $first $perGroup) $numExperts | int) 1 -}}
{{- if not (has (toString $expert) $named) -}}{{- $left = append $left $expert -}}{{- end -}}
{{- end -}}
{{- if $left -}}
{{- $name := printf "e%d" (first $left) -}}
{{- $given := get $groups $name | default dict -}}
{{- if not (hasKey $given "experts") -}}
{{- $_ := set $groups $name (merge (dict "experts" (include "expertmesh.ranges" $left)) $given) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}

{{/* A list of ascending numbers as one range, "3-5", where there is none between that is not in it; else "3,5". */}}
{{- define "expertmesh.ranges" -}}
{{- $span := sub (last .) (first .) | int -}}
{{- if eq $span 0 -}}{{- first . -}}
{{- else if eq (add1 $span | int) (len .) -}}{{- printf "%v-%v" (first .) (last .) -}}
{{- else -}}{{- join "," . -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.group.name" -}}{{ include "expertmesh.fullname" .root }}-{{ .group }}{{- end -}}

{{/* The experts of a group as numbers with spaces between: "0,3-5" gives "0 3 4 5". */}}
{{- define "expertmesh.expertIds" -}}
{{- $ids := list -}}
{{- range splitList "," (toString (. | default "")) | compact -}}
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
{{- range $name, $_ := include "expertmesh.groups" . | fromYaml -}}
{{- $service := include "expertmesh.group.name" (dict "root" $ "group" $name) -}}
{{- $names = append $names (printf "%s:%v" $service $.Values.experts.ports.grpc) -}}
{{- end -}}
{{- printf "dns://%s" (join "," $names) -}}
{{- end -}}
{{- end -}}
