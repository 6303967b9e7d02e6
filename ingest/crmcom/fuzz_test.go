package crmcom

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/shopspring/decimal"
	"golang.org/x/tools/txtar"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/ingest/lenient"
	"github.com/counterfoil/counterfoil/schemas"
)

// FuzzParseCall reads anything as a call of each kind: it must not panic, every row must become one item, what is refused must say why, and
// the answer must be JSON.
func FuzzParseCall(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txtar")
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		_, _, body := message(string(archive.Files[0].Data))
		for i := range methods {
			f.Add(uint8(i), body)
		}
	}
	f.Add(uint8(1), `{"intended_currency_identifier":{"id":1},"fields_set":["id"],"purchase_customer_events_set":[null,"x",{"products_set":[{"net_amount":"1e2"},1]},{"request_unique_identifier":6}]}`)
	f.Add(uint8(5), `{"financial_achievement_customer_events_set":[{"payment_medium_type_identifier":{"id":"\ud800"},"payment_medium_type_identifier":null,"udf_date_1":"2016-06-22T15:00:00.5+02:00"}]}`)
	f.Fuzz(func(t *testing.T, n uint8, body string) {
		k := &methods[int(n)%len(methods)]
		c, err := parseCall(body, k)
		if err != nil {
			if b := formatFailure(err.(*failure)); !json.Valid(b) {
				t.Errorf("not JSON: %s", b)
			}
			return
		}
		items := parseRows(c, k, "demo")
		if len(items) != c.count {
			t.Fatalf("%d items of %d rows", len(items), c.count)
		}
		receipt := &ingest.Receipt{}
		for i, item := range items {
			result := ingest.Result{Index: i, Reasons: item.Defects}
			if len(item.Defects) == 0 {
				if item.Value == nil || item.Ref == nil {
					t.Errorf("row %d has neither a value nor a defect", i)
				}
				result.Processed = &schemas.EventResult{}
			} else if !json.Valid(item.Original) {
				t.Errorf("original of row %d: %s", i, item.Original)
			}
			for _, reason := range item.Defects {
				if reason.Value != nil && !utf8.ValidString(*reason.Value) {
					t.Errorf("reason %+v", reason)
				}
			}
			receipt.Results = append(receipt.Results, result)
		}
		if b := formatReceipt(receipt, items, c.fields); !json.Valid(b) || !utf8.Valid(b) {
			t.Errorf("not JSON: %s", b)
		}
	})
}

// FuzzParseDecimal compares the short way with the long one.
func FuzzParseDecimal(f *testing.F) {
	for _, s := range []string{"0", "-0", "0.1", "19.99", "1e2", "-5", "60", "1234567890123456789012345678.0123456789", "1e999999999", "0.00000000001"} {
		f.Add(s)
	}
	f.Add("1." + strings.Repeat("0", maxNumberText))
	f.Fuzz(func(t *testing.T, s string) {
		if exponent := strings.ContainsAny(s, "eE"); !lenient.IsNumber(s) || len(s) > maxNumberText && exponent || len(s) > 2*maxNumberText {
			return
		}
		d, ok := parseDecimal(s)
		long, err := decimal.NewFromString(s)
		if fits := err == nil && schemas.FitsDecimal(long); ok != fits || ok && !d.Equal(long) {
			t.Errorf("%q: %v, %v", s, ok, fits)
		}
	})
}

// BenchmarkParse reads calls of 1,000 purchases with two lines each, the largest rows of the published examples.
func BenchmarkParse(b *testing.B) {
	k := &methods[1]
	rows := make([]string, MaxRows)
	for i := range rows {
		rows[i] = fmt.Sprintf(`{"request_unique_identifier":"%d","accounts_receivable_identifier":{"number":"ACR0000000228"},"performed_by_unit_identifier":{"name":"Admin Unit"},`+
			`"performed_on":"2016-06-22T15:00:00","reference_number":"RF01","products_set":[`+
			`{"product_identifier":{"code":"Serendipity"},"total_amount":60,"net_amount":50,"vat_amount":10},`+
			`{"product_identifier":{"code":"Bronze"},"total_amount":180,"net_amount":160,"vat_amount":20}]}`, i)
	}
	body := `{"token":"x","purchase_customer_events_set":[` + strings.Join(rows, ",") + `]}`
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		c, err := parseCall(body, k)
		if err != nil {
			b.Fatal(err)
		}
		if items := parseRows(c, k, "demo"); len(items) != MaxRows || items[0].Defects != nil {
			b.Fatal(items[0].Defects)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*MaxRows), "µs/row")
}

// BenchmarkFormat writes the answer to such a call.
func BenchmarkFormat(b *testing.B) {
	items := make([]ingest.Item, MaxRows)
	receipt := &ingest.Receipt{}
	for i := range items {
		ref := fmt.Sprint(i)
		items[i].Ref = &ref
		receipt.Results = append(receipt.Results, ingest.Result{Index: i, Processed: &schemas.EventResult{Number: int64(i), Outcome: schemas.Outcome{ID: schemas.ItemID("demo", "x", int32(i))}}})
	}
	b.ReportAllocs()
	for b.Loop() {
		formatReceipt(receipt, items, allFields)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*MaxRows), "µs/row")
}
