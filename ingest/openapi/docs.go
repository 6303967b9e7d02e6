package openapi

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"html/template"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

//go:embed docs.html
var docsHTML string

var docsTemplate = template.Must(template.New("docs").Parse(docsHTML))

// What the page shows.
type (
	docs struct {
		Title, Summary, Description string
		Tags                        []*docsTag
		Security                    []docsRow
		Schemas                     []docsSchema
	}
	docsTag struct {
		ID, Name, Description string
		Operations            []docsOperation
	}
	docsOperation struct {
		ID, Method, Path, Summary, Description string
		Also                                   []string // other paths where it is
		Parameters, Bodies, Answers            []docsRow
		Example                                string // of a body, in JSON
	}
	docsRow struct {
		Name, In, Description string
		Type                  template.HTML
		Required              bool
	}
	docsSchema struct {
		docsRow
		Fields []docsRow
	}
)

// page is the document as HTML, without anything from elsewhere.
var page = sync.OnceValue(func() []byte {
	d := document()
	p := &docsPage{root: d.root}
	var out bytes.Buffer
	if err := docsTemplate.Execute(&out, p.read(d.also)); err != nil {
		panic(err)
	}
	return out.Bytes()
})

type docsPage struct{ root *yaml.Node }

func (p *docsPage) read(also map[string][]string) *docs {
	info, components := get(p.root, "info"), get(p.root, "components")
	d := &docs{Title: text(info, "title"), Summary: text(info, "summary"), Description: text(info, "description")}
	copies := map[string]bool{}
	for _, paths := range also {
		for _, path := range paths {
			copies[path] = true
		}
	}
	for _, tag := range get(p.root, "tags").Content {
		t := &docsTag{ID: "tag-" + strings.ReplaceAll(text(tag, "name"), ".", ""), Name: text(tag, "name"), Description: text(tag, "description")}
		for path, item := range members(get(p.root, "paths")) {
			if copies[path] {
				continue
			}
			for method, op := range members(item) {
				if tags := get(op, "tags"); tags != nil && tags.Content[0].Value == t.Name {
					o := p.operation(op, get(item, "parameters"))
					o.Method, o.Path, o.Also = strings.ToUpper(method), path, also[path]
					t.Operations = append(t.Operations, o)
				}
			}
		}
		d.Tags = append(d.Tags, t)
	}
	for name, s := range members(get(components, "securitySchemes")) {
		d.Security = append(d.Security, docsRow{Name: name, Description: text(s, "description")})
	}
	for name, s := range members(get(components, "schemas")) {
		row := docsSchema{docsRow: p.row(name, s)}
		required := get(s, "required")
		for field, typ := range members(get(s, "properties")) {
			r := p.row(field, typ)
			r.Required = contains(required, field)
			row.Fields = append(row.Fields, r)
		}
		d.Schemas = append(d.Schemas, row)
	}
	return d
}

func (p *docsPage) operation(op, shared *yaml.Node) docsOperation {
	o := docsOperation{ID: text(op, "operationId"), Summary: text(op, "summary"), Description: text(op, "description")}
	for _, list := range []*yaml.Node{shared, get(op, "parameters")} {
		if list == nil {
			continue
		}
		for _, param := range list.Content {
			param = p.resolve(param)
			o.Parameters = append(o.Parameters, docsRow{
				Name: text(param, "name"), In: text(param, "in"), Type: p.typeOf(get(param, "schema")), Description: text(param, "description"),
			})
		}
	}
	for media, body := range members(get(get(op, "requestBody"), "content")) {
		o.Bodies = append(o.Bodies, p.row(media, get(body, "schema")))
		if example := get(body, "example"); example != nil {
			o.Example = asJSON(example)
		}
	}
	for status, answer := range members(get(op, "responses")) {
		answer = p.resolve(answer)
		row := docsRow{Name: status, Description: text(answer, "description")}
		for _, content := range members(get(answer, "content")) {
			row.Type = p.typeOf(get(content, "schema")) // of the first media type
			break
		}
		o.Answers = append(o.Answers, row)
	}
	return o
}

func (p *docsPage) row(name string, schema *yaml.Node) docsRow {
	return docsRow{Name: name, Type: p.typeOf(schema), Description: text(schema, "description")}
}

// resolve follows a reference to a component.
func (p *docsPage) resolve(n *yaml.Node) *yaml.Node {
	ref := text(n, "$ref")
	if ref == "" {
		return n
	}
	at := p.root
	for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		at = get(at, name)
	}
	return at
}

// typeOf says in a few words what a schema takes. Schemas with a name are links.
func (p *docsPage) typeOf(s *yaml.Node) template.HTML {
	if ref := text(s, "$ref"); ref != "" {
		name := template.HTMLEscapeString(ref[strings.LastIndexByte(ref, '/')+1:])
		return template.HTML(`<a href="#` + name + `">` + name + `</a>`) //nolint:gosec // escaped
	}
	for _, choice := range []string{"oneOf", "anyOf"} {
		if of := get(s, choice); of != nil {
			var all []string
			for _, c := range of.Content {
				all = append(all, string(p.typeOf(c)))
			}
			return template.HTML(strings.Join(all, " or ")) //nolint:gosec // of types
		}
	}
	var all []string
	types := get(s, "type")
	switch {
	case types == nil:
	case types.Kind == yaml.SequenceNode:
		for _, t := range types.Content {
			all = append(all, t.Value)
		}
	default:
		all = []string{types.Value}
	}
	for i, t := range all {
		switch {
		case t == "array" && get(s, "items") != nil:
			all[i] = "array of " + string(p.typeOf(get(s, "items")))
		case t == "object" && len(all) == 1 && get(s, "properties") != nil:
			var names []string
			for name, v := range members(get(s, "properties")) {
				names = append(names, template.HTMLEscapeString(name)+": "+string(p.typeOf(v)))
			}
			if len(names) <= 3 {
				all[i] = "{" + strings.Join(names, ", ") + "}"
			}
		case t == "string" && get(s, "enum") != nil:
			var values []string
			for _, v := range get(s, "enum").Content {
				values = append(values, template.HTMLEscapeString(v.Value))
			}
			all[i] = strings.Join(values, ", ")
		case t == "string" && get(s, "format") != nil:
			all[i] = template.HTMLEscapeString(get(s, "format").Value)
		}
	}
	return template.HTML(strings.Join(all, " or ")) //nolint:gosec // of types
}

// asJSON writes a node as JSON, in one line, members in their order.
func asJSON(n *yaml.Node) string {
	var all []string
	switch n.Kind {
	case yaml.MappingNode:
		for name, v := range members(n) {
			all = append(all, strconv.Quote(name)+": "+asJSON(v))
		}
		return "{" + strings.Join(all, ", ") + "}"
	case yaml.SequenceNode:
		for _, v := range n.Content {
			all = append(all, asJSON(v))
		}
		return "[" + strings.Join(all, ", ") + "]"
	}
	var v any
	if err := n.Decode(&v); err != nil {
		panic(err)
	}
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// text is a member of a mapping that is a text; empty where there is none.
func text(m *yaml.Node, name string) string {
	if v := get(m, name); v != nil && v.Kind == yaml.ScalarNode {
		return v.Value
	}
	return ""
}

func contains(list *yaml.Node, value string) bool {
	if list == nil {
		return false
	}
	for _, v := range list.Content {
		if v.Value == value {
			return true
		}
	}
	return false
}
