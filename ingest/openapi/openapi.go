// Package openapi describes the service's HTTP API in OpenAPI 3.1, at /openapi.yaml, and as a page to read, at /docs.
//
// base.yaml is written by hand: what the kinds of /v1 share, the partners' paths, the forms of answers. The paths of the kinds and the
// schemas of their items are made of the Avro schemas that the service compiles in (avro.go), so that they cannot drift. docs.go makes the
// page of the document. Tests hold the document against the handlers: every route is in it, and the answers of the conformance transcripts
// are what it says.
package openapi

import (
	"bytes"
	_ "embed"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/counterfoil/counterfoil/ingest/v1"
)

//go:embed base.yaml
var base []byte

// Document is the description, in YAML. It must not be changed.
var Document = sync.OnceValue(func() []byte {
	var text bytes.Buffer
	enc := yaml.NewEncoder(&text)
	enc.SetIndent(2)
	if err := enc.Encode(document().root); err != nil {
		panic(err)
	}
	return text.Bytes()
})

// Register adds the routes. They are open to everybody: what is described is no secret.
func Register(mux *http.ServeMux) {
	serve := func(pattern, contentType string, content func() []byte) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			body := content()
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = w.Write(body) // the client is gone
		})
	}
	serve("GET /openapi.yaml", "application/yaml", Document)
	serve("GET /docs", "text/html; charset=utf-8", page)
}

// described is the whole description, and at which further paths an item of paths is.
type described struct {
	root *yaml.Node
	also map[string][]string
}

var document = sync.OnceValue(func() *described {
	var parsed yaml.Node
	if err := yaml.Unmarshal(base, &parsed); err != nil {
		panic(err)
	}
	doc := plain(parsed.Content[0])
	examples := get(doc, "x-examples")
	remove(doc, "x-examples")
	remove(doc, "x-before")
	out := &described{root: doc, also: map[string][]string{}}
	paths, components := get(doc, "paths"), get(get(doc, "components"), "schemas")
	all := newMapping()
	types := avroTypes{components: components, seen: map[string]string{}}
	for _, k := range v1.Kinds() {
		name := types.item(k.Schema)
		set(all, v1.Base+"/"+k.Name, pathOf(k, name, types.doc, get(examples, k.Name)))
	}
	for path, item := range members(paths) {
		also := get(item, "x-also-at")
		remove(item, "x-also-at")
		set(all, path, item)
		if also == nil {
			continue
		}
		for i, other := range also.Content {
			again := plain(item)
			for _, op := range members(again) {
				if id := get(op, "operationId"); id != nil {
					id.Value += strconv.Itoa(i + 2)
				}
			}
			set(all, other.Value, again)
			out.also[path] = append(out.also[path], other.Value)
		}
	}
	*paths = *all
	return out
})

// pathOf describes POST /v1/{kind}; item is the schema of an item, about what it is, example one of them.
func pathOf(k *v1.Kind, item, about string, example *yaml.Node) *yaml.Node {
	ref := func(kind, name string) *yaml.Node { return mapping("$ref", "#/components/"+kind+"/"+name) }
	items := mapping("type", "array", "maxItems", 10000, "items", ref("schemas", item))
	text := func(description string) *yaml.Node {
		return mapping("schema", mapping("type", "string", "description", description))
	}
	judged := "Judged in the order of acceptance; the answer has each item's outcome, or says that it is pending."
	if k.IsRecord() {
		judged = "Judged at once. A good record is written and replaces the earlier one of its id."
	}
	responses := newMapping()
	for _, r := range [][2]string{
		{"200", "Complete"}, {"202", "Accepted"}, {"400", "Malformed"}, {"401", "Unauthenticated"}, {"403", "Forbidden"}, {"413", "TooLarge"},
		{"415", "Unsupported"}, {"422", "Conflict"}, {"429", "RateLimited"}, {"431", "Headers"}, {"500", "Internal"}, {"503", "Busy"},
	} {
		set(responses, r[0], ref("responses", r[1]))
	}
	return mapping("post", mapping(
		"operationId", "post"+item,
		"tags", sequence("v1"),
		"summary", "A batch of "+strings.ReplaceAll(k.Name, "-", " "),
		"description", about+" "+judged,
		"parameters", sequence(ref("parameters", "prefer"), ref("parameters", "idempotencyKey")),
		"requestBody", mapping("required", true, "content", mapping(
			"application/json", mapping("schema", mapping("oneOf", sequence(
				items,
				mapping("type", "object", "required", sequence("items"), "additionalProperties", false, "properties", mapping("items", plain(items))),
			)), "example", sequence(example)),
			"application/x-ndjson", text("An item a line; blank lines are skipped."),
			"text/csv", text("A header with the names of the fields, then an item a row. An empty cell is a field that is left out; a member of a record has a "+
				"column named by its path, such as account.number, or the record is JSON in one cell, as arrays are."),
		)),
		"responses", responses,
	))
}
