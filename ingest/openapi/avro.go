package openapi

import (
	"encoding/json"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/counterfoil/counterfoil/schemas"
)

// avroTypes makes JSON schemas of Avro schemas, in the plain form (package plainjson) that /v1 takes. Records become components.
type avroTypes struct {
	components *yaml.Node
	seen       map[string]string // the Avro schema of each component, by its name
	doc        string            // of the last item
}

// avroType is an Avro type: the members that ours have.
type avroType struct {
	Type        json.RawMessage `json:"type"`
	LogicalType string          `json:"logicalType"`
	Precision   int             `json:"precision"`
	Scale       int             `json:"scale"`
	Name        string          `json:"name"`
	Doc         string          `json:"doc"`
	Items       json.RawMessage `json:"items"`
	Fields      []struct {
		Name    string          `json:"name"`
		Type    json.RawMessage `json:"type"`
		Doc     string          `json:"doc"`
		Default json.RawMessage `json:"default"`
	} `json:"fields"`
}

// item adds the component of a kind's items and returns its name.
func (t *avroTypes) item(s *schemas.Schema) string {
	var record avroType
	if err := json.Unmarshal([]byte(s.Text()), &record); err != nil {
		panic(fmt.Sprintf("openapi: schema %s: %v", s.Name(), err))
	}
	t.doc = record.Doc
	component := t.record(&record)
	fields := get(component, "properties")
	withRef := mapping("ref", mapping("type", sequence("string", "number", "null"), "description", "The caller's own reference; it comes back with the outcome."))
	withRef.Content = append(withRef.Content, fields.Content...)
	*fields = *withRef
	t.add(record.Name, s.Text(), component)
	return record.Name
}

// add adds a component. Two records of one name must be the same.
func (t *avroTypes) add(name, text string, component *yaml.Node) {
	if had, ok := t.seen[name]; ok && had != text || !ok && get(t.components, name) != nil {
		panic("openapi: there are two schemas " + name)
	}
	t.seen[name] = text
	set(t.components, name, component)
}

func (t *avroTypes) record(r *avroType) *yaml.Node {
	required, properties := sequence(), newMapping()
	for _, f := range r.Fields {
		typ, nullable := t.of(f.Type)
		if nullable {
			typ = orNull(typ)
		} else if f.Default == nil {
			required.Content = append(required.Content, node(f.Name))
		}
		if f.Doc != "" {
			description := f.Doc
			if own := get(typ, "description"); own != nil {
				description += " " + own.Value
			}
			set(typ, "description", node(description))
		}
		set(properties, f.Name, typ)
	}
	out := mapping("type", "object")
	if r.Doc != "" {
		set(out, "description", node(r.Doc))
	}
	if len(required.Content) > 0 {
		set(out, "required", required)
	}
	set(out, "additionalProperties", node(false))
	set(out, "properties", properties)
	return out
}

// orNull makes a schema take null as well.
func orNull(typ *yaml.Node) *yaml.Node {
	switch types := get(typ, "type"); {
	case types == nil:
		return mapping("anyOf", sequence(typ, mapping("type", "null")))
	case types.Kind == yaml.SequenceNode:
		types.Content = append(types.Content, node("null"))
	default:
		set(typ, "type", sequence(types.Value, "null"))
	}
	return typ
}

// of makes the schema of a type, and says whether it may be null.
func (t *avroTypes) of(raw json.RawMessage) (schema *yaml.Node, nullable bool) {
	var name string
	var union []json.RawMessage
	var typ avroType
	switch {
	case json.Unmarshal(raw, &name) == nil:
		return t.named(name), false
	case json.Unmarshal(raw, &union) == nil:
		for _, branch := range union {
			if string(branch) == `"null"` {
				nullable = true
				continue
			}
			if schema != nil {
				panic(fmt.Sprintf("openapi: a union of more than a type and null: %s", raw))
			}
			schema, _ = t.of(branch)
		}
		return schema, nullable
	case json.Unmarshal(raw, &typ) != nil:
		panic(fmt.Sprintf("openapi: no Avro type: %s", raw))
	}
	switch typ.LogicalType {
	case "decimal":
		return mapping("type", sequence("string", "number"), "description",
			fmt.Sprintf("A decimal, exact as written: at most %d digits before the point and %d after it.", typ.Precision-typ.Scale, typ.Scale)), false
	case "date":
		return mapping("type", "string", "format", "date"), false
	case "timestamp-millis", "timestamp-nanos":
		digits := 3
		if typ.LogicalType == "timestamp-nanos" {
			digits = 9
		}
		return mapping("type", sequence("string", "integer"), "description",
			fmt.Sprintf("An instant of RFC 3339, UTC where it names no zone, with at most %d digits of a second's fraction; or a count of such units since 1970.", digits)), false
	case "":
	default:
		panic("openapi: logical type " + typ.LogicalType)
	}
	var kind string
	if err := json.Unmarshal(typ.Type, &kind); err != nil {
		panic(fmt.Sprintf("openapi: no Avro type: %s", raw))
	}
	switch kind {
	case "array":
		items, _ := t.of(typ.Items)
		return mapping("type", "array", "items", items), false
	case "record":
		t.add(typ.Name, string(raw), t.record(&typ))
		return t.named(typ.Name), false
	default:
		return t.named(kind), false
	}
}

// named makes the schema of a primitive type, or the reference to a record.
func (t *avroTypes) named(name string) *yaml.Node {
	switch name {
	case "string", "boolean":
		return mapping("type", name)
	case "int":
		return mapping("type", "integer", "format", "int32")
	case "long":
		return mapping("type", "integer", "format", "int64")
	case "double":
		return mapping("type", "number", "format", "double")
	}
	name = name[strings.LastIndexByte(name, '.')+1:]
	if _, ok := t.seen[name]; !ok {
		panic("openapi: unknown Avro type " + name)
	}
	return mapping("$ref", "#/components/schemas/"+name)
}
