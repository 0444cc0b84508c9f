#!/bin/sh
# Write what is generated: the CustomResourceDefinition (in the chart; manifests/crd.yaml is a link to it) and install.yaml.
set -eu
llm360=${LLM360:-.venv/bin/llm360}
helm=${HELM:-helm}

"$llm360" spec crd > helm/llm360/files/crd.yaml
{
    printf '%s\n' '# Rendered from helm/llm360 by scripts/manifests.sh; do not edit. Apply it with manifests/crd.yaml:' \
        '# kubectl apply --server-side -f manifests/crd.yaml -f manifests/install.yaml' \
        'apiVersion: v1' 'kind: Namespace' 'metadata:' '  name: llm360-system' '  labels:' \
        '    pod-security.kubernetes.io/enforce: restricted'
    "$helm" template llm360 helm/llm360 --namespace llm360-system --kube-version 1.34.0 --skip-tests --set crds.enabled=false
} > manifests/install.yaml
