package schemas

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestIdempotencyKeys(t *testing.T) {
	for name, c := range map[string]struct {
		values []string
		good   bool
	}{
		"usual":                {[]string{"8e03978e-40d5-43dd-bc93-6894a57f9324"}, true},
		"quoted":               {[]string{`"8e03978e"`}, true},
		"with spaces":          {[]string{"order 17, once"}, true},
		"longest":              {[]string{strings.Repeat("k", 255)}, true},
		"too long":             {[]string{strings.Repeat("k", 256)}, false},
		"empty":                {[]string{""}, false},
		"none":                 {nil, false},
		"twice":                {[]string{"a", "a"}, false},
		"a control character":  {[]string{"a\tb"}, false},
		"DEL":                  {[]string{"a\x7f"}, false},
		"not ASCII":            {[]string{"schlüssel"}, false},
		"not even UTF-8":       {[]string{"a\xff"}, false},
		"a NUL, which parts":   {[]string{"a\x00b"}, false},
		"a line, which splits": {[]string{"a\nb"}, false},
	} {
		if err := CheckIdempotencyKey(c.values); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParsePassage(f *testing.F) {
	f.Add("batches/0", "v1 sales", "a key", bytes.Repeat([]byte{1}, 32), false)
	f.Add("ownership.processed/11", "v1 ownership", "~", []byte(nil), true)
	f.Add("calls/2147483648", "r", "k", []byte("short"), true)
	f.Fuzz(func(t *testing.T, target, route, key string, hash []byte, last bool) {
		headers := []kgo.RecordHeader{{Key: "target", Value: []byte(target)}, {Key: "route", Value: []byte(route)}, {Key: "idempotency_key", Value: []byte(key)}, TenantHeader("t")}
		if hash != nil {
			headers = append(headers, kgo.RecordHeader{Key: "body_hash", Value: hash})
		}
		if last {
			headers = append(headers, kgo.RecordHeader{Key: "last"})
		}
		p, rest, err := ParsePassage(headers)
		if diff := cmp.Diff([]kgo.RecordHeader{TenantHeader("t")}, rest); diff != "" {
			t.Fatalf("rest (-want +got):\n%s", diff)
		}
		if err != nil {
			return
		}
		if p.Last != last {
			t.Fatalf("last %t, want %t", p.Last, last)
		}
		again, _, err := ParsePassage(p.Headers(nil))
		if diff := cmp.Diff(p, again); diff != "" || err != nil {
			t.Fatalf("written and read again: %v\n%s", err, diff)
		}
	})
}
