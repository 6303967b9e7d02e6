package schemas

import (
	"strings"

	"github.com/twmb/avro"
)

// NamedTypes are the definitions of a schema's named types, by their full names: later mentions have the name only.
type NamedTypes map[string]*avro.SchemaNode

// NamedTypesOf collects them from a schema's root.
func NamedTypesOf(root *avro.SchemaNode) NamedTypes {
	n := NamedTypes{}
	n.collect(root)
	return n
}

func (n NamedTypes) collect(s *avro.SchemaNode) {
	if s == nil {
		return
	}
	if s.Name != "" {
		full := s.Name
		if s.Namespace != "" && !strings.Contains(full, ".") {
			full = s.Namespace + "." + full
		}
		n[full] = s
	}
	for i := range s.Fields {
		n.collect(&s.Fields[i].Type)
	}
	for i := range s.Branches {
		n.collect(&s.Branches[i])
	}
	n.collect(s.Items)
	n.collect(s.Values)
}

// Follow returns the definition that a node mentions; every other node is its own.
func (n NamedTypes) Follow(s *avro.SchemaNode) *avro.SchemaNode {
	if named, ok := n[s.Type]; ok {
		return named
	}
	return s
}
