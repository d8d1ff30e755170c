//go:build tools

// Package crictl pins the version of crictl that the integration tests build where Go is installed.
package crictl

import _ "sigs.k8s.io/cri-tools/cmd/crictl"
