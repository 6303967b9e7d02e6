package avon

import (
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/tools/txtar"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/ingest/avon/jsv"
	"github.com/counterfoil/counterfoil/schemas"
)

// fuzz reads anything as a body of one format. Nothing may panic; what is taken must be writable and be read again in every format as it is;
// and the answer must be well-formed in every format.
func fuzz(f *testing.F, format format, boundary string) {
	files, _ := filepath.Glob("testdata/*.txtar")
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, part := range archive.Files {
			if part.Name == "request" {
				_, header, text := message(string(part.Data))
				if byType[mediaType(header.Get("Content-Type"))] == format {
					f.Add(text, false)
					f.Add("["+text+"]", true)
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, text string, auto bool) {
		q, err := read(body{text: text, format: format, boundary: boundary, auto: auto})
		status := &responseStatus{Errors: []responseError{}}
		switch err := err.(type) {
		case nil:
			if status.Errors = q.errors; q.failed != (len(q.errors) > 0) || len(q.errors) > maxErrors+1 {
				t.Fatalf("%d errors", len(q.errors))
			}
			if !auto && !q.failed && (len(q.ends) != 1 || q.ends[0] != len(q.items)) {
				t.Fatalf("%d items of %d", q.ends, len(q.items))
			}
			var all []*schemas.Transaction
			for _, item := range q.items[:q.first()] {
				tr := item.Value.(*schemas.Transaction)
				if _, err := schemas.TransactionSchema.Avro().AppendEncode(nil, tr); err != nil {
					t.Fatalf("it cannot be written: %v", err)
				}
				all = append(all, tr)
			}
			again, err := read(body{text: inJSV(all, small, ""), format: formatJSV})
			if err != nil || again.failed {
				t.Fatalf("%v, %v", err, again.errors)
			}
			var same []*schemas.Transaction
			for _, item := range again.items {
				same = append(same, item.Value.(*schemas.Transaction))
			}
			if before, after := print(all), print(same); before != after {
				t.Fatalf("read\n%s\nagain\n%s", before, after)
			}
		case *malformed:
			status.Message = err.problem
		case *ingest.Error:
			status.Message = err.Message
		default:
			t.Fatalf("%T: %v", err, err)
		}
		wellFormed(t, status)
	})
}

// wellFormed reads a response in every format with another reader than ours.
func wellFormed(t *testing.T, status *responseStatus) {
	t.Helper()
	status.Meta = map[string]string{"AutoBatchIndex": "1"}
	b := formatResponse(output{format: formatJSON}, status)
	if !json.Valid(b) || !utf8.Valid(b) {
		t.Errorf("not JSON: %s", b)
	}
	b = formatResponse(output{format: formatJSV}, status)
	if r := jsv.NewReader(string(b)); r.Value().Kind != jsv.Object || r.End() != nil {
		t.Errorf("not JSV: %s: %v", b, r.Err())
	}
	b = formatResponse(output{format: formatXML}, status)
	for d := xml.NewDecoder(strings.NewReader(string(b))); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("not XML: %s: %v", b, err)
		}
	}
	b = formatResponse(output{format: formatCSV}, status)
	if lines, err := csv.NewReader(strings.NewReader(string(b))).ReadAll(); err != nil || len(lines) != 2 {
		t.Errorf("not CSV: %s: %v", b, err)
	}
}

func FuzzJSON(f *testing.F) {
	f.Add(`{"financialTransactions":[{"taxRate":"1,234.50","transactionTime":"\/Date(1425291300000-0500)\/","state":"\ud800"},null]}`, false)
	fuzz(f, formatJSON, "")
}

func FuzzJSV(f *testing.F) {
	f.Add(`{financialTransactions:[{taxRate:"1,234.50",campaign:"C01, ""x""",state:},,null]}`, false)
	fuzz(f, formatJSV, "")
}

func FuzzXML(f *testing.F) {
	f.Add(`<FinancialTransactionsBatchCreate xmlns:i="`+instanceNS+`"><FinancialTransactions><FinancialTransactionsBatchCreateViewModel><State i:nil="true"/><TaxRate>1.5</TaxRate></FinancialTransactionsBatchCreateViewModel></FinancialTransactions></FinancialTransactionsBatchCreate>`, false)
	f.Add(`<ArrayOfFinancialTransactionsBatchCreate><FinancialTransactionsBatchCreate/></ArrayOfFinancialTransactionsBatchCreate>`, true)
	fuzz(f, formatXML, "")
}

func FuzzCSV(f *testing.F) {
	f.Add("\ufeffstate,TAXRATE\r\n\"O\"\"N\",1.5\r\n\r\n", false)
	fuzz(f, formatCSV, "")
}

func FuzzForm(f *testing.F) {
	f.Add("FinancialTransactions="+url.QueryEscape("[{state:ON}]"), false)
	fuzz(f, formatForm, "")
}

func FuzzParts(f *testing.F) {
	f.Add("--b\r\nContent-Disposition: form-data; name=FinancialTransactions\r\n\r\n[{state:ON}]\r\n--b--\r\n", false)
	fuzz(f, formatParts, "b")
}

// BenchmarkRead reads bodies of 1,000 transactions with all members, in each format.
func BenchmarkRead(b *testing.B) {
	const n = 1000
	all := make([]*schemas.Transaction, n)
	for i := range all {
		tr := &schemas.Transaction{}
		q := &request{transaction: tr}
		for place := range members {
			v := value{text, fmt.Sprintf("%s-%d", members[place].name[:5], i)}
			switch members[place].at(tr).(type) {
			case **schemas.Decimal:
				v.text = fmt.Sprintf("%d.%02d", i*place, place)
			case **string:
			default:
				v.text = "2015-03-02T10:15:00Z"
			}
			q.set(place, v)
		}
		all[i] = tr
	}
	for _, c := range []struct {
		name   string
		format format
		text   string
	}{
		{"JSON", formatJSON, inJSON(all, small, false)},
		{"JSV", formatJSV, inJSV(all, small, "")},
		{"JSV as printed", formatJSV, inJSV(all, small, "\n\t\t")},
		{"XML", formatXML, inXML(all, true, func([]string) {})},
		{"CSV", formatCSV, inCSV(all, small)},
		{"form", formatForm, "FinancialTransactions=" + url.QueryEscape(jsvList(all, small, ""))},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.text)))
			b.ReportAllocs()
			for b.Loop() {
				q, err := read(body{text: c.text, format: c.format})
				if err != nil || q.failed || len(q.items) != n {
					b.Fatal(err, q.errors, len(q.items))
				}
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "transactions/s")
		})
	}
}
