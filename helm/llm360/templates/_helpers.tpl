{{/* Name of everything that the chart makes. */}}
{{- define "llm360.name" -}}
{{- if contains "llm360" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-llm360" (.Release.Name | trunc 43 | trimSuffix "-") }}{{ end }}
{{- end }}

{{/* Labels by which the operator's pods are found; they never change. */}}
{{- define "llm360.selector" -}}
app.kubernetes.io/name: llm360-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of everything that the chart makes. */}}
{{- define "llm360.labels" -}}
{{ include "llm360.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* An image's address: by digest where one is given. */}}
{{- define "llm360.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}{{ else }}{{ $image.repository }}:{{ $image.tag | default (index . 1) }}{{ end }}
{{- end }}

{{/* The operator's service account. */}}
{{- define "llm360.account" -}}
{{ .Values.serviceAccount.name | default (include "llm360.name" .) }}
{{- end }}
