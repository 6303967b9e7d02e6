package lenient

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree reads a whole text and prints what was read: kinds, texts, and members in their order.
func tree(src string, d Dialect) (string, error) {
	r := NewReader(src, d)
	var b strings.Builder
	var value func()
	value = func() {
		switch r.Kind() {
		case Array:
			b.WriteString("[ ")
			for r.Enter(); r.More(); {
				value()
			}
			b.WriteString("] ")
		case Object:
			b.WriteString("{ ")
			for r.Enter(); r.More(); {
				fmt.Fprintf(&b, "%s= ", r.Name())
				value()
			}
			b.WriteString("} ")
		default:
			v := r.Value()
			fmt.Fprintf(&b, "%d:%s ", v.Kind, v.Text)
		}
	}
	value()
	return strings.TrimSuffix(b.String(), " "), r.End()
}

func TestDialects(t *testing.T) {
	tests := []struct {
		src     string
		json    string // what JSON reads; "" and a message in jsonErr otherwise
		net     string
		jsonErr string
		netErr  string
	}{
		{src: `{"a":1,"a":[true,null,"x"]}`, json: `{ a= 3:1 a= [ 2:true 1:null 4:x ] }`, net: `{ a= 3:1 a= [ 2:true 1:null 4:x ] }`},
		{src: "\ufeff\u00a0[-0.5e+10 , 12345678901234567890.10]\u00a0\n", json: `[ 3:-0.5e+10 3:12345678901234567890.10 ]`, net: `[ 3:-0.5e+10 3:12345678901234567890.10 ]`},
		{src: `"\u00e9\ud83d\ude00\ud800x\/\"\\\b\f\n\r\t"`, json: "4:é😀\ufffdx/\"\\\b\f\n\r\t", net: "4:é😀\ufffdx/\"\\\b\f\n\r\t"},
		{src: `{'a':'it\'s "x"', b_$1:undefined, /* c */ "c":"O'Brien",} // end`, jsonErr: "expected a name in double quotes", net: `{ a= 4:it's "x" b_$1= 1:undefined c= 4:O'Brien }`},
		{src: `[1,]`, jsonErr: "expected a value", net: `[ 3:1 ]`},
		{src: `[,1]`, jsonErr: "expected a value", netErr: "expected a value"},
		{src: `[1,,2]`, jsonErr: "expected a value", netErr: "expected a value"},
		{src: "\"a\nb\"", jsonErr: "control character in a string", net: "4:a\nb"},
		{src: `"\x"`, jsonErr: "unknown escape", netErr: "unknown escape"},
		{src: `"\u12g4"`, jsonErr: `malformed \u escape`, netErr: `malformed \u escape`},
		{src: `[01]`, jsonErr: "malformed number", netErr: "malformed number"},
		{src: `[1.]`, jsonErr: "malformed number", netErr: "malformed number"},
		{src: `[1.5.6]`, jsonErr: "malformed number", netErr: "malformed number"},
		{src: `[0x1F]`, jsonErr: "malformed number", netErr: "malformed number"},
		{src: `[NaN]`, jsonErr: "expected a value", netErr: "expected a value"},
		{src: `[nulls]`, jsonErr: "unknown word", netErr: "unknown word"},
		{src: `[True]`, jsonErr: "expected a value", netErr: "expected a value"},
		{src: `{"a" 1}`, jsonErr: "expected : after a name", netErr: "expected : after a name"},
		{src: `{"a":1 "b":2}`, jsonErr: "expected , or }", netErr: "expected , or }"},
		{src: `{"a":1]`, jsonErr: "expected , or }", netErr: "expected , or }"},
		{src: `[1}`, jsonErr: "expected , or ]", netErr: "expected , or ]"},
		{src: `[1`, jsonErr: "unexpected end, a ] is missing", netErr: "unexpected end, a ] is missing"},
		{src: `{"a`, jsonErr: "unexpected end in a string", netErr: "unexpected end in a string"},
		{src: `[1] 2`, jsonErr: "unexpected text after the value", netErr: "unexpected text after the value"},
		{src: ``, jsonErr: "unexpected end, a value is missing", netErr: "unexpected end, a value is missing"},
		{src: `[1] /* x`, jsonErr: "unexpected text after the value", netErr: "unexpected end in a comment"},
		{src: `[1 / 2]`, jsonErr: "expected , or ]", netErr: "expected a value, a name or a comment"},
	}
	for _, test := range tests {
		for d, want := range []struct{ tree, err string }{{test.json, test.jsonErr}, {test.net, test.netErr}} {
			got, err := tree(test.src, Dialect(d))
			switch {
			case want.err == "" && err != nil:
				t.Errorf("dialect %d: %s: %v", d, test.src, err)
			case want.err != "" && (err == nil || !strings.HasPrefix(err.Error(), want.err)):
				t.Errorf("dialect %d: %s: error %v, want %s", d, test.src, err, want.err)
			case want.err == "":
				if diff := cmp.Diff(want.tree, got); diff != "" {
					t.Errorf("dialect %d: %s (-want +got):\n%s", d, test.src, diff)
				}
			}
		}
	}
}

func TestDepth(t *testing.T) {
	nest := func(n int) string { return strings.Repeat(`[{"a":`, n/2) + "1" + strings.Repeat(`}]`, n/2) }
	for _, read := range []func(r *Reader){
		func(r *Reader) { r.Value() },
		func(r *Reader) {
			for {
				switch r.Kind() {
				case Array:
					r.Enter()
					r.More()
				case Object:
					r.Enter()
					r.More()
					r.Name()
				default:
					r.Value()
					for r.Err() == nil && r.Start() < len(r.src) && !r.More() {
					}
					return
				}
			}
		},
	} {
		for n, good := range map[int]bool{MaxDepth: true, MaxDepth + 2: false} {
			r := NewReader(nest(n), JSON)
			read(r)
			if err := r.End(); (err == nil) != good {
				t.Errorf("depth %d: %v", n, err)
			}
		}
	}
}

func TestPositions(t *testing.T) {
	r := NewReader(` [ {"a":1} , "x" ]`, JSON)
	var got []string
	for r.Enter(); r.More(); {
		start := r.Start()
		r.Value()
		got = append(got, r.Source(start, r.Pos()))
	}
	if diff := cmp.Diff([]string{`{"a":1}`, `"x"`}, got); diff != "" || r.End() != nil {
		t.Error(diff, r.Err())
	}
	r = NewReader("[1,\n  x]", JSON)
	r.Value()
	if err, want := r.End(), "expected a value at line 2, column 3"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// FuzzJSON compares the dialect JSON with encoding/json: what that takes is taken, and (but for blanks beyond ASCII, the byte order mark and
// depth) nothing else; JSONNet takes all of it.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{
		`{"token":"{{token}}","web_customer_events_set":[{"request_unique_identifier":"06","accounts_receivable_identifier":{"number":"ACR0000000020"},"amount":-1.5e2}]}`,
		`[{'userName':'j.doe',productSKU:"O'Brien",/* */},]// x`, `"\ud83d\ude00\u0000"`, `[1,,2]`, `{"a":[[[{}]]]}`, "\ufeff[]", `nul`, `-`, `1e`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		for _, d := range []Dialect{JSON, JSONNet} {
			deep, deepErr := tree(src, d)
			r := NewReader(src, d)
			r.Value()
			if flatErr := r.End(); (flatErr == nil) != (deepErr == nil) {
				t.Errorf("dialect %d: entering says %v (%s), passing over %v", d, deepErr, deep, flatErr)
			}
			valid := json.Valid([]byte(src))
			tooDeep := deepErr != nil && strings.Contains(deepErr.Error(), "nested deeper")
			if valid && deepErr != nil && !tooDeep {
				t.Errorf("dialect %d: %v", d, deepErr)
			}
			if d == JSON && !valid && deepErr == nil && !strings.ContainsFunc(src, func(c rune) bool { return c > 0x7f }) {
				t.Errorf("took what is no JSON: %q", src)
			}
		}
	})
}

// TestServiceStacksNumbers: what is made of a number's characters is one for this dialect alone.
func TestServiceStacksNumbers(t *testing.T) {
	for src, want := range map[string]string{
		`[.5,+5,007,-.,1e3,1.2.3]`: "[ 3:.5 3:+5 3:007 3:-. 3:1e3 3:1.2.3 ]", `{"a":-1}`: "{ a= 3:-1 }",
		`[1x]`: "malformed number", `[-x]`: "malformed number", `[x]`: "expected a value", `['a']`: "expected a value", `[1,]`: "expected a value",
	} {
		got, err := tree(src, ServiceStack)
		if err != nil {
			got, _, _ = strings.Cut(err.Error(), " at line")
		}
		if got != want {
			t.Errorf("%s: %s, want %s", src, got, want)
		}
	}
}
