// Package crds pins the module whose example/prometheus-operator-crd folder holds the CRDs.
package crds

import _ "github.com/prometheus-operator/prometheus-operator/pkg/versionutil"
