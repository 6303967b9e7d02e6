package jsv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/counterfoil/counterfoil/ingest/lenient"
)

// object is a tree's node with members in their order; a list is a []any, a text a string, null is nil.
type object []member

type member struct {
	Name  string
	Value any
}

// tree reads a whole text.
func tree(src string) (any, error) {
	r := NewReader(src)
	var value func() any
	value = func() any {
		switch r.Kind() {
		case List:
			list := []any{}
			for r.Enter(); r.More(); {
				list = append(list, value())
			}
			return list
		case Object:
			o := object{}
			for r.Enter(); r.More(); {
				name := r.Name()
				o = append(o, member{name, value()})
			}
			return o
		default:
			v := r.Value()
			if v.Kind == Empty || v.Kind == Invalid {
				return nil
			}
			return v.Text
		}
	}
	v := value()
	return v, r.End()
}

// write writes a tree; text writes its texts and names, white is asked for what stands around brackets, commas and colons.
func write(v any, text func(b []byte, s string) []byte, white func() string) string {
	var value func(b []byte, v any) []byte
	value = func(b []byte, v any) []byte {
		switch v := v.(type) {
		case string:
			b = text(b, v)
		case []any:
			b = append(b, "["+white()...)
			for i, e := range v {
				if i > 0 {
					b = append(b, ","+white()...)
				}
				b = append(value(b, e), white()...)
			}
			if len(v) > 0 && v[len(v)-1] == nil {
				b = append(b, ',') // the comma before the bracket does not count
			}
			b = append(b, ']')
		case object:
			b = append(b, "{"+white()...)
			for i, m := range v {
				if i > 0 {
					b = append(b, ","+white()...)
				}
				b = append(append(text(b, m.Name), white()...), ":"+white()...)
				b = append(value(b, m.Value), white()...)
			}
			b = append(b, '}')
		}
		return b
	}
	return string(value(nil, v))
}

func compact() string { return "" }

// published writes as ServiceStack does: in quotes is what holds one of eight characters, and the empty text. White space does not count.
func published(b []byte, s string) []byte {
	if s != "" && !strings.ContainsAny(s, "\":,{}[]\r\n") {
		return append(b, s...)
	}
	return append(b, `"`+strings.ReplaceAll(s, `"`, `""`)+`"`...)
}

func TestReads(t *testing.T) {
	for _, c := range []struct {
		src  string
		want any
	}{
		{"", nil},
		{" \t\r\n", nil},
		{"\ufeff{}", object{}},
		{"a,b:c", "a,b:c"},
		{`""`, ""},
		{`"a""b"`, `a"b`},
		{`""""`, `"`},
		{"\"raw\r\nline\"", "raw\r\nline"},
		{`" blanks "`, " blanks "},
		{"  bare\u00a0", "bare"},
		{"{a:1,b:,c:\"\",d:null}", object{{"a", "1"}, {"b", nil}, {"c", ""}, {"d", "null"}}},
		{"{at:2015-03-02T10:15:00Z,x:a:b}", object{{"at", "2015-03-02T10:15:00Z"}, {"x", "a:b"}}},
		{`{a:x"y",b:C:\new}`, object{{"a", `x"y"`}, {"b", `C:\new`}}},
		{`{a:it's,b:x{y}`, object{{"a", "it's"}, {"b", "x{y"}}},
		{"{a:1,}", object{{"a", "1"}}},
		{"[]", []any{}},
		{"[ \n]", []any{}},
		{"[,]", []any{nil}},
		{"[,,]", []any{nil, nil}},
		{"[{a:1},{a:2},]", []any{object{{"a", "1"}}, object{{"a", "2"}}}},
		{"[{a:1},,{a:2}]", []any{object{{"a", "1"}}, nil, object{{"a", "2"}}}},
		{"[a,\"b,c\",[d]]", []any{"a", "b,c", []any{"d"}}},
		{"{ a :\t1 , \"b,:\" : [ x ] }", object{{"a", "1"}, {"b,:", []any{"x"}}}},
		{"{:1}", object{{"", "1"}}},
		{`{"a":1,"b":"c"}`, object{{"a", "1"}, {"b", "c"}}},
		{"{\n\tlist: \n\t[\n\t\t{\n\t\t\ta: 0,\n\t\t\tb: String\n\t\t}\n\t]\n}", object{{"list", []any{object{{"a", "0"}, {"b", "String"}}}}}},
	} {
		got, err := tree(c.src)
		if err != nil {
			t.Errorf("%q: %v", c.src, err)
		} else if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.src, diff)
		}
	}
}

func TestRefuses(t *testing.T) {
	for _, c := range []struct {
		src     string
		message string
	}{
		{"{", "unexpected end, a } is missing at line 1, column 2"},
		{"{a", "unexpected end in a name, a : is missing at line 1, column 3"},
		{"{a}", "expected : after a name at line 1, column 3"},
		{"{a:1", "unexpected end, a } is missing at line 1, column 5"},
		{"{a:", "unexpected end, a value is missing at line 1, column 4"},
		{"{a:1,", "unexpected end, a } is missing at line 1, column 6"},
		{"{a:[1}", "expected , or ] at line 1, column 6"},
		{"{a:[{b:1]}", "unexpected end, a ] is missing at line 1, column 11"},
		{"{,}", "expected : after a name at line 1, column 2"},
		{"{a:1}}", "unexpected text after the value at line 1, column 6"},
		{"{}x", "unexpected text after the value at line 1, column 3"},
		{"[a}", "expected , or ] at line 1, column 3"},
		{"[", "unexpected end, a ] is missing at line 1, column 2"},
		{"[a", "unexpected end, a ] is missing at line 1, column 3"},
		{"{\n a:\"x", `unexpected end, a " is missing at line 2, column 6`},
		{"{\n a:\"x\"y}", "expected , or } at line 2, column 7"},
		{`{a"b:1}`, "expected : after a name at line 1, column 3"},
		{`{"a:1}`, `unexpected end, a " is missing at line 1, column 7`},
		{strings.Repeat("[", 65), "nested deeper than 64 levels at line 1, column 65"},
		{strings.Repeat("{a:", 65), "nested deeper than 64 levels at line 1, column 193"},
	} {
		_, err := tree(c.src)
		if err == nil || err.Error() != c.message {
			t.Errorf("%q: %v, want %s", c.src, err, c.message)
		}
		r := NewReader(c.src)
		if r.Value(); r.End() == nil { // the way past a container
			t.Errorf("%q is passed over", c.src)
		}
		var syntax *lenient.SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%q: %T", c.src, err)
		}
	}
	if _, err := tree(strings.Repeat("[", 64) + strings.Repeat("]", 64)); err != nil {
		t.Errorf("64 levels: %v", err)
	}
}

func TestEntersOnlyContainers(t *testing.T) {
	for _, src := range []string{"", "a", `"a"`} {
		r := NewReader(src)
		r.Enter()
		if r.More() || r.Err() == nil {
			t.Errorf("%q was entered", src)
		}
	}
	if r := (&Reader{}); r.Kind() != Empty || r.End() != nil {
		t.Error("the zero Reader does not read an empty text")
	}
}

func TestAppendText(t *testing.T) {
	for s, want := range map[string]string{
		"":           `""`,
		"plain text": "plain text",
		"it's":       "it's",
		`he "x"`:     `"he ""x"""`,
		"a,b":        `"a,b"`,
		"a:b":        `"a:b"`,
		"{":          `"{"`,
		"]":          `"]"`,
		"a\nb":       "\"a\nb\"",
		" a":         `" a"`,
		"a\t":        "\"a\t\"",
	} {
		if got := string(AppendText(nil, s)); got != want {
			t.Errorf("%q is written %s, want %s", s, got, want)
		}
	}
}

// random makes a tree. Texts come from a small alphabet with everything that is special, and do not begin or end with white space, which
// ServiceStack's own writer does not protect.
func random(r *rand.Rand, depth int) any {
	text := func() string {
		alphabet := []rune("ab1\":,{}[]\r\n\t '\\\u00e9\u00a0-")
		s := make([]rune, r.IntN(6))
		for i := range s {
			s[i] = alphabet[r.IntN(len(alphabet))]
		}
		return strings.TrimFunc(string(s), unicode.IsSpace)
	}
	switch n := r.IntN(10); {
	case n == 0:
		return nil
	case depth > 4 || n < 4:
		return text()
	case n < 7:
		list := []any{}
		for range r.IntN(4) {
			list = append(list, random(r, depth+1))
		}
		return list
	default:
		o := object{}
		for range r.IntN(4) {
			o = append(o, member{text(), random(r, depth+1)})
		}
		return o
	}
}

// TestRoundTrip writes trees as ServiceStack does and as this package does, in one line and with white space wherever a formatter may put
// some, and reads the same tree from each.
func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	white := func() string { return [...]string{"", " ", "\n\t", "\r\n"}[r.IntN(4)] }
	for range 20_000 {
		want := random(r, 0)
		for name, src := range map[string]string{
			"published":         write(want, published, compact),
			"published, pretty": write(want, published, white),
			"ours":              write(want, AppendText, compact),
			"ours, pretty":      write(want, AppendText, white),
		} {
			got, err := tree(src)
			if err != nil || !reflect.DeepEqual(want, got) { // cmp takes its time
				t.Fatalf("%s: %q: %v (-want +got):\n%s", name, src, err, cmp.Diff(want, got))
			}
		}
	}
}

// FuzzReader reads anything: it must end, walking must find the errors that passing over finds, and what was read must be what is read
// from its own text.
func FuzzReader(f *testing.F) {
	f.Add(`{financialTransactions:[{beeNumberCustomer:100200,transactionCode:INV,transactionAmount:-12.50,transactionTime:2015-03-02T10:15:00Z,campaign:"C01, spring",orderNumber:"he said ""ok"""},{beeNumberCustomer:7}]}`)
	f.Add("{\n\tfinancialTransactions: \n\t[\n\t\t{\n\t\t\tbeeNumberCustomer: 0,\n\t\t\ttransactionCode: String\n\t\t}\n\t]\n}")
	f.Add(`[,"",{},[],a]`)
	f.Add("\ufeff\u00a0{a:\"\"}")
	f.Fuzz(func(t *testing.T, src string) {
		want, err := tree(src)
		r := NewReader(src)
		r.Value()
		if passed := r.End(); fmt.Sprint(passed) != fmt.Sprint(err) {
			t.Fatalf("walking: %v, passing over: %v", err, passed)
		}
		if err != nil {
			return
		}
		again, err := tree(write(want, AppendText, compact))
		if err != nil || !reflect.DeepEqual(want, again) {
			t.Fatalf("%v (-want +got):\n%s", err, cmp.Diff(want, again))
		}
	})
}

// BenchmarkReader walks over a list of 1,000 objects.
func BenchmarkReader(b *testing.B) {
	src := "[" + strings.Repeat(`{beeNumberCustomer:100200,transactionCode:INV,transactionAmount:-12.50,transactionTime:2015-03-02T10:15:00Z,campaign:"C01, spring"},`, 1000) + "]"
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		r := NewReader(src)
		for r.Enter(); r.More(); {
			for r.Enter(); r.More(); {
				r.Name()
				r.Value()
			}
		}
		if err := r.End(); err != nil {
			b.Fatal(err)
		}
	}
}
