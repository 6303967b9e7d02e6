package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// matcher compares what came with what was expected. Problems are texts, empty where there is none.
type matcher struct {
	saved map[string]string
	last  *big.Int // <number> before
}

var (
	placeholder = regexp.MustCompile(`<(id|item|number|int|time|any|save [a-z]+)>`)
	patterns    = map[string]string{
		"id":     `[0-9A-F]{32}`,
		"item":   `[0-9a-f]{32}`,
		"number": `[0-9]+`,
		"int":    `-?[0-9]+`,
		"time":   `[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?Z`,
		"any":    `(?s:.*)`,
		"save":   `.+`,
	}
)

// pattern makes a regular expression of a text with placeholders, and names its groups' placeholders.
func pattern(want string) (*regexp.Regexp, []string) {
	var b strings.Builder
	var names []string
	b.WriteString(`^`)
	for at := 0; ; {
		loc := placeholder.FindStringSubmatchIndex(want[at:])
		if loc == nil {
			b.WriteString(regexp.QuoteMeta(want[at:]))
			break
		}
		name := want[at+loc[2] : at+loc[3]]
		kind, _, _ := strings.Cut(name, " ")
		b.WriteString(regexp.QuoteMeta(want[at : at+loc[0]]))
		b.WriteString("(" + patterns[kind] + ")")
		names = append(names, name)
		at += loc[1]
	}
	b.WriteString(`$`)
	return regexp.MustCompile(b.String()), names
}

// text compares a text that may have placeholders.
func (m *matcher) text(path, want, got string) string {
	if !strings.Contains(want, "<") {
		if want != got {
			return fmt.Sprintf("%s: want %q, got %q", path, want, got)
		}
		return ""
	}
	re, names := pattern(want)
	groups := re.FindStringSubmatch(got)
	if groups == nil {
		return fmt.Sprintf("%s: want %q, got %q", path, want, got)
	}
	for i, name := range names {
		value := groups[i+1]
		if saved, ok := strings.CutPrefix(name, "save "); ok {
			m.saved[saved] = value
		}
		if name != "number" {
			continue
		}
		n, _ := new(big.Int).SetString(value, 10) // the pattern is digits
		if m.last != nil && n.Cmp(m.last) <= 0 {
			return fmt.Sprintf("%s: %s does not rise, %s was before it", path, n, m.last)
		}
		m.last = n
	}
	return ""
}

// json compares by structure.
func (m *matcher) json(want string, got []byte) string {
	w, err := decode([]byte(want))
	if err != nil {
		return fmt.Sprintf("the expected body is not JSON: %v", err)
	}
	g, err := decode(got)
	if err != nil {
		return fmt.Sprintf("the body is not JSON: %v", err)
	}
	return m.value("body", w, g)
}

func decode(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("more text after the value")
	}
	return v, nil
}

func (m *matcher) value(path string, want, got any) string {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s: want an object, got %v", path, got)
		}
		for _, name := range slices.Sorted(maps.Keys(g)) {
			if _, ok := w[name]; !ok {
				return fmt.Sprintf("%s has a member %s, which was not expected: %v", path, name, g[name])
			}
		}
		for _, name := range slices.Sorted(maps.Keys(w)) {
			if _, ok := g[name]; !ok {
				return fmt.Sprintf("%s lacks the member %s", path, name)
			}
			if problem := m.value(path+"."+name, w[name], g[name]); problem != "" {
				return problem
			}
		}
		return ""
	case []any:
		g, ok := got.([]any)
		if !ok {
			return fmt.Sprintf("%s: want an array, got %v", path, got)
		}
		if len(w) != len(g) {
			return fmt.Sprintf("%s: want %d elements, got %d", path, len(w), len(g))
		}
		for i := range w {
			if problem := m.value(fmt.Sprintf("%s[%d]", path, i), w[i], g[i]); problem != "" {
				return problem
			}
		}
		return ""
	case string:
		text, ok := got.(string)
		if number, isNumber := got.(json.Number); isNumber && (w == "<int>" || strings.HasPrefix(w, "<save ")) {
			text, ok = number.String(), true
		} else if w == "<int>" {
			ok = false
		}
		if w == "<any>" {
			return ""
		}
		if !ok {
			return fmt.Sprintf("%s: want %q, got %v", path, w, got)
		}
		return m.text(path, w, text)
	default: // json.Number, bool, nil
		if want != got {
			return fmt.Sprintf("%s: want %v, got %v", path, want, got)
		}
		return ""
	}
}

// exactly compares byte by byte but for placeholders.
func exactly(want, got string) string {
	re, _ := pattern(want)
	if !re.MatchString(strings.TrimSuffix(got, "\n")) {
		return "want, byte by byte,\n" + want
	}
	return ""
}

// rows compares the lines that a query answered.
func (m *matcher) rows(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	if len(w) != len(g) {
		return fmt.Sprintf("want %d rows\n%s\ngot %d\n%s", len(w), want, len(g), got)
	}
	for i := range w {
		if problem := m.text(fmt.Sprintf("row %d", i+1), w[i], g[i]); problem != "" {
			return problem
		}
	}
	return ""
}

func TestMatcherSeesDifferences(t *testing.T) {
	for _, c := range []struct{ name, want, got string }{
		{"another text", `{"a":"x"}`, `{"a":"y"}`},
		{"a member more", `{"a":1}`, `{"a":1,"b":null}`},
		{"a member less", `{"a":1,"b":null}`, `{"a":1}`},
		{"another order", `[1,2]`, `[2,1]`},
		{"another spelling of a number", `[1]`, `[1.0]`},
		{"a text for a number", `["<int>"]`, `["1"]`},
		{"a number for a text", `["1"]`, `[1]`},
		{"a short id", `["<id>"]`, `["0A"]`},
		{"a lower-case id", `["<id>"]`, `["0a1b2c3d4e5f60718293a4b5c6d7e8f9"]`},
		{"a number that does not rise", `["<number>","<number>"]`, `["5","5"]`},
		{"null for an array", `[]`, `null`},
		{"text after the value", `[]`, `[] []`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if (&matcher{saved: map[string]string{}}).json(c.want, []byte(c.got)) == "" {
				t.Errorf("%s passes for %s", c.got, c.want)
			}
		})
	}
	m := &matcher{saved: map[string]string{}}
	if problem := m.json(`{"n":["<number>","<number>"],"i":"<save it>","x":"<any>","l":"/v1/batches/<save no>"}`,
		[]byte(`{"n":["9","10"],"i":7,"x":[1],"l":"/v1/batches/12"}`)); problem != "" || m.saved["it"] != "7" || m.saved["no"] != "12" {
		t.Errorf("%s; saved %v", problem, m.saved)
	}
	if exactly(`{"a":"<id>","b":1}`, `{"b":1,"a":"0A1B2C3D4E5F60718293A4B5C6D7E8F9"}`) == "" {
		t.Error("another order of members passes for the exact one")
	}
}
