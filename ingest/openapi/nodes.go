package openapi

import (
	"fmt"
	"iter"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Nodes of YAML, which keep the order of their members.

func newMapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode} }

// mapping makes a mapping of names and values.
func mapping(pairs ...any) *yaml.Node {
	m := newMapping()
	for i := 0; i < len(pairs); i += 2 {
		set(m, pairs[i].(string), node(pairs[i+1]))
	}
	return m
}

func sequence(values ...any) *yaml.Node {
	s := &yaml.Node{Kind: yaml.SequenceNode}
	for _, v := range values {
		s.Content = append(s.Content, node(v))
	}
	return s
}

func node(v any) *yaml.Node {
	if n, ok := v.(*yaml.Node); ok {
		return n
	}
	n := new(yaml.Node)
	if err := n.Encode(v); err != nil {
		panic(fmt.Sprintf("openapi: %T: %v", v, err))
	}
	return n
}

// members are the names and values of a mapping; a node of another kind has none.
func members(m *yaml.Node) iter.Seq2[string, *yaml.Node] {
	return func(yield func(string, *yaml.Node) bool) {
		if m == nil || m.Kind != yaml.MappingNode {
			return
		}
		for i := 0; i < len(m.Content); i += 2 {
			if !yield(m.Content[i].Value, m.Content[i+1]) {
				return
			}
		}
	}
}

// get is the value of a name; nil where there is none.
func get(m *yaml.Node, name string) *yaml.Node {
	for n, v := range members(m) {
		if n == name {
			return v
		}
	}
	return nil
}

// set adds a value, or replaces the one of that name.
func set(m *yaml.Node, name string, v *yaml.Node) {
	if old := get(m, name); old != nil {
		*old = *v
		return
	}
	m.Content = append(m.Content, node(name), v)
}

func remove(m *yaml.Node, name string) {
	for i := 0; m.Kind == yaml.MappingNode && i < len(m.Content); i += 2 {
		if m.Content[i].Value == name {
			m.Content = slices.Delete(m.Content, i, i+2)
			return
		}
	}
}

// plain copies a node without comments, and with what its aliases and merges stand for.
func plain(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return plain(n.Alias)
	}
	out := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value, Style: n.Style &^ yaml.FoldedStyle}
	if n.Kind != yaml.MappingNode {
		for _, c := range n.Content {
			out.Content = append(out.Content, plain(c))
		}
		return out
	}
	for name, v := range members(n) {
		if name != "<<" {
			set(out, name, plain(v))
			continue
		}
		merged := []*yaml.Node{v}
		if v.Kind == yaml.SequenceNode {
			merged = v.Content
		}
		for _, m := range merged {
			for name, v := range members(plain(m)) {
				if get(out, name) == nil { // what stands beside a merge wins
					set(out, name, v)
				}
			}
		}
	}
	return out
}
