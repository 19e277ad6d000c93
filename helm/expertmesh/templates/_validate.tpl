{{/* What a schema cannot say: values that must fit together. Rendered with the gateway's Deployment. */}}

{{- define "expertmesh.validate" -}}
{{- include "expertmesh.validate.source" . -}}
{{- include "expertmesh.validate.experts" . -}}
{{- include "expertmesh.validate.tls" .Values.tls -}}
{{- include "expertmesh.validate.kvCache" .Values.gateway -}}
{{- include "expertmesh.validate.drain" (dict "where" "gateway" "role" .Values.gateway) -}}
{{- range $name, $group := include "expertmesh.groups" . | fromYaml -}}
{{- include "expertmesh.validate.drain" (dict "where" (printf "experts.groups.%s" $name) "role" $group) -}}
{{- include "expertmesh.validate.autoscaling" (dict "where" (printf "experts.groups.%s" $name) "autoscaling" $group.autoscaling) -}}
{{- end -}}
{{- if .Values.gateway.autoscaling.enabled -}}
{{- include "expertmesh.validate.autoscaling" (dict "where" "gateway" "autoscaling" .Values.gateway.autoscaling) -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.validate.source" -}}
{{- $model := .Values.model -}}
{{- $sources := compact (list $model.pvc.claimName $model.hostPath.path $model.inImage.path $model.fetch.baseUrl) -}}
{{- if ne (len $sources) 1 -}}
{{- fail (printf "%d sources of the model are set; set exactly one of model.pvc.claimName, model.hostPath.path, model.inImage.path and model.fetch.baseUrl" (len $sources)) -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.validate.experts" -}}
{{- $hosted := list -}}
{{- range $name, $group := include "expertmesh.groups" . | fromYaml -}}
{{- if eq $name "gateway" -}}
{{- fail "experts.groups.gateway: this name is the gateway's; choose another" -}}
{{- end -}}
{{- if not (hasKey $group "experts") -}}
{{- fail (printf "experts.groups.%s names no experts; only groups such as e0 have some by themselves, experts.perGroup is %v" $name $.Values.experts.perGroup) -}}
{{- end -}}
{{- $ids := include "expertmesh.expertIds" $group.experts -}}
{{- if not $ids -}}
{{- fail (printf "experts.groups.%s.experts is %v; write numbers and ascending ranges, such as 0,3-5" $name $group.experts) -}}
{{- end -}}
{{- $hosted = concat $hosted (splitList " " $ids) -}}
{{- end -}}
{{- range $expert := until (int .Values.model.numExperts) -}}
{{- if not (has (toString $expert) $hosted) -}}
{{- fail (printf "expert %d is in no group: of experts.groups, the one that would be its own has others; give that another name" $expert) -}}
{{- end -}}
{{- end -}}
{{- range $expert := $hosted -}}
{{- if ge (int $expert) (int $.Values.model.numExperts) -}}
{{- fail (printf "experts.groups names expert %s; model.numExperts is %v, so the last one is %d" $expert $.Values.model.numExperts (sub $.Values.model.numExperts 1)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Without a limit the cache of a CPU would take half of what the node has free. */}}
{{- define "expertmesh.validate.kvCache" -}}
{{- if and (eq (toString .kvCacheGiB) "auto") (not (hasPrefix "cuda" (include "expertmesh.device" .))) (not (get .resources.limits "memory")) -}}
{{- fail "gateway.kvCacheGiB is auto, which is a part of gateway.resources.limits.memory; set that, or a number of GiB" -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.validate.tls" -}}
{{- $given := compact (list .existingSecrets.gateway .existingSecrets.experts) -}}
{{- $hasIssuer := not (empty .certManager.issuerRef.name) -}}
{{- if and .enabled (ne (len $given) (ternary 0 2 $hasIssuer)) -}}
{{- fail "tls.enabled needs certificates; set either tls.certManager.issuerRef.name, or tls.existingSecrets.gateway and .experts" -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.validate.drain" -}}
{{- if lt (include "expertmesh.drainSeconds" .role | int) 1 -}}
{{- fail (printf "%s: terminationGracePeriodSeconds %v leaves no time to drain after preStopSeconds %v and 5 s to end" .where .role.terminationGracePeriodSeconds .role.preStopSeconds) -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.validate.autoscaling" -}}
{{- if gt (int .autoscaling.min) (int .autoscaling.max) -}}
{{- fail (printf "%s.autoscaling: min %v is above max %v" .where .autoscaling.min .autoscaling.max) -}}
{{- end -}}
{{- end -}}
