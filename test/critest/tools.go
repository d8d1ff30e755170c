//go:build tools

// Package critest pins the version of the official conformance suite, and of the program that runs it in parallel.
package critest

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
