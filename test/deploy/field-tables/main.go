// Writes the fields of Kubernetes' configuration types as JSON, from the sources of their Go modules: which there are,
// of which type, and since and until which version. test/deploy/manifests.test.ts checks the files of deploy/ by it.
//
//	go run . NAME=VERSION:FOLDER... >../../fixtures/field-tables.json
//
// NAME is the table (kubelet, kubeadm, kind), VERSION what to note of a field that not all have, FOLDER that of
// types.go, where `go mod download -json MODULE@VERSION` says: config/v1beta1 of k8s.io/kubelet,
// cmd/kubeadm/app/apis/kubeadm/v1beta4 of k8s.io/kubernetes, pkg/apis/config/v1alpha4 of sigs.k8s.io/kind. Versions of one
// table are given oldest first.
package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

type field struct {
	Type     string   `json:"type"`
	Versions []string `json:"versions,omitempty"`
}

type table struct {
	Versions []string                     `json:"versions"`
	Types    map[string]map[string]*field `json:"types"`
	Aliases  map[string]string            `json:"aliases"`
}

func main() {
	tables := map[string]*table{}
	for _, argument := range os.Args[1:] {
		name, rest, _ := strings.Cut(argument, "=")
		version, folder, found := strings.Cut(rest, ":")
		if !found {
			fmt.Fprintln(os.Stderr, "usage: go run . NAME=VERSION:FOLDER ...")
			os.Exit(2)
		}
		if tables[name] == nil {
			tables[name] = &table{Types: map[string]map[string]*field{}, Aliases: map[string]string{}}
		}
		if err := tables[name].read(version, filepath.Join(folder, "types.go")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	for _, table := range tables {
		table.forgetWhereAll()
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(tables); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (t *table) read(version, file string) error {
	t.Versions = append(t.Versions, version)
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, file, nil, 0)
	if err != nil {
		return err
	}
	text := func(node ast.Node) string {
		var out strings.Builder
		_ = printer.Fprint(&out, files, node)
		return out.String()
	}
	ast.Inspect(parsed, func(node ast.Node) bool {
		spec, ok := node.(*ast.TypeSpec)
		if !ok {
			return true
		}
		body, ok := spec.Type.(*ast.StructType)
		if !ok {
			t.Aliases[spec.Name.Name] = text(spec.Type)
			return false
		}
		fields := t.Types[spec.Name.Name]
		if fields == nil {
			fields = map[string]*field{}
			t.Types[spec.Name.Name] = fields
		}
		for _, member := range body.Fields.List {
			key := ""
			if member.Tag != nil {
				tag := reflect.StructTag(strings.Trim(member.Tag.Value, "`")).Get("json")
				key, _, _ = strings.Cut(tag, ",")
			}
			if key == "-" {
				continue
			}
			// An embedded type, whose fields are those of the type around it.
			if key == "" {
				key = "..." + text(member.Type)
			}
			if fields[key] == nil {
				fields[key] = &field{}
			}
			fields[key].Type = text(member.Type)
			fields[key].Versions = append(fields[key].Versions, version)
		}
		return false
	})
	return nil
}

// forgetWhereAll leaves the versions only with fields that not every version has.
func (t *table) forgetWhereAll() {
	for _, fields := range t.Types {
		for _, field := range fields {
			if slices.Equal(field.Versions, t.Versions) {
				field.Versions = nil
			}
		}
	}
}
