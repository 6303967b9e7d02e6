package ingest_test

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/counterfoil/counterfoil/ingest"
)

// readCSV returns the rows, as they are quoted in Go, and their sources.
func readCSV(text string, trim bool) (rows, sources []string, err error) {
	c, err := ingest.NewCSV([]byte(text), trim)
	if err != nil {
		return nil, nil, err
	}
	for {
		row, source, err := c.Read()
		if errors.Is(err, io.EOF) {
			return rows, sources, nil
		}
		if err != nil {
			return rows, sources, err
		}
		rows, sources = append(rows, fmt.Sprintf("%q", row)), append(sources, string(source))
	}
}

func TestCSV(t *testing.T) {
	for _, c := range []struct {
		text    string
		trim    bool
		rows    []string
		sources []string // nil: not looked at
		err     string
	}{
		{text: "a,b\r\nc\n\n\r\nd,e,f", rows: []string{`["a" "b"]`, `["c"]`, `["d" "e" "f"]`}, sources: []string{"a,b", "c", "d,e,f"}},
		{text: "\"a\r\nb\nc\rd\",\"\r\n\r\"\r\n\"\r\r\n\"", rows: []string{`["a\r\nb\nc\rd" "\r\n\r"]`, `["\r\r\n"]`}, sources: []string{"\"a\r\nb\nc\rd\",\"\r\n\r\"", "\"\r\r\n\""}},
		{text: `"a ""b"" ",c "`, err: `bare "`},
		{text: `"a" ,b`, err: `extraneous`},
		{text: "\"a\" ,\"b\"\t\r\n \"c\"  \nd , \"e\" x", trim: true, rows: []string{`["a" "b"]`, `["c"]`}, err: "extraneous"},
		{text: "\"a\"\"b\" ,\" c \" ", trim: true, rows: []string{`["a\"b" " c "]`}},
		{text: "a,b\r", rows: []string{`["a" "b"]`}},
		{text: "a,b\rc,d\r", err: "parse error on line 1, column 4: a line ends in CR alone; lines end in LF or CRLF"},
		{text: "a\n\"b\r\",c\rd", err: "line 2, column 7"},
		{text: ""},
	} {
		rows, sources, err := readCSV(c.text, c.trim)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%q: error %v, want %q", c.text, err, c.err)
		}
		if diff := cmp.Diff(c.rows, rows); diff != "" {
			t.Errorf("%q: rows (-want +got):\n%s", c.text, diff)
		}
		if diff := cmp.Diff(c.sources, sources); diff != "" && c.sources != nil {
			t.Errorf("%q: sources (-want +got):\n%s", c.text, diff)
		}
	}
}

// FuzzCSV: what the library writes is read back, line ends included; and it agrees with the library where there is no CR.
func FuzzCSV(f *testing.F) {
	f.Add("a\r\nb", "\"", "", "\r")
	f.Add(" x ", "\n", "a,b", "\r\r\n")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		want := fmt.Sprintf("%q", []string{a, b, c, d})
		var text strings.Builder
		for i, field := range []string{a, b, c, d} {
			if i > 0 {
				text.WriteByte(',')
			}
			text.WriteString(`"` + strings.ReplaceAll(field, `"`, `""`) + `"`)
		}
		for _, trim := range []bool{false, true} {
			rows, sources, err := readCSV(text.String()+"\r\n", trim)
			if err != nil || len(rows) != 1 || rows[0] != want || sources[0] != text.String() {
				t.Fatalf("trim %t: %q: %v %q, %v", trim, text.String(), rows, sources, err)
			}
		}
		if plain := strings.Join([]string{a, b, c, d}, ","); !strings.Contains(plain, "\r") {
			rows, _, err := readCSV(plain, false)
			r := csv.NewReader(strings.NewReader(plain))
			r.FieldsPerRecord = -1
			all, plainErr := r.ReadAll()
			if (err == nil) != (plainErr == nil) {
				t.Fatalf("%q: %v, and the library says %v", plain, err, plainErr)
			}
			for i := range all {
				if err == nil && rows[i] != fmt.Sprintf("%q", all[i]) {
					t.Fatalf("%q: row %d is %s, and the library's %q", plain, i, rows[i], all[i])
				}
			}
		}
	})
}

func BenchmarkCSV(b *testing.B) {
	for name, row := range map[string]string{
		"plain": "a,b,c,d,e\r\n", "quoted": "\"a\",\"b\",\"c\",\"d\",\"e\"\r\n", "lines in quotes": "\"a\r\n\",b,c,d,e\r\n",
	} {
		text := bytes.Repeat([]byte(row), ingest.MaxItems)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				c, err := ingest.NewCSV(text, false)
				check(b, err)
				for err == nil {
					_, _, err = c.Read()
				}
			}
		})
	}
}
