package bench

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/counterfoil/counterfoil/processors/matching"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
)

// calls is how many calls sales are matched to.
func calls() int { return size("BENCH_CALLS", 1_000_000) }

// lines is how many order lines, and how many invoice lines, there are.
func lines() int { return size("BENCH_LINES", 5_000_000) }

// execute runs statements in ClickHouse.
func execute(b *testing.B, p *harness.Parts, statements ...string) {
	b.Helper()
	for _, sql := range statements {
		if err := p.Conn().Exec(b.Context(), sql); err != nil {
			b.Fatalf("%s: %v", sql, err)
		}
	}
}

// Three calls have one MHID, and four one number.
func visitor(i int) string { return fmt.Sprintf("MH-%d", i%(calls()/3)) }
func caller(i int) string  { return fmt.Sprintf("020%08d", i%(calls()/4)) }

// putCalls makes n calls of the year 2024. They are made where they are read, in ClickHouse's tables: through Kafka it would take as long as
// everything else together. So the topic calls holds hardly any, and what waiting for the sink costs is what it costs while no calls come in.
func putCalls(b *testing.B, p *harness.Parts, n int) {
	b.Helper()
	prefix := strings.TrimSuffix(schemas.PhoneKey(caller(0)), "00000000")
	execute(b, p, fmt.Sprintf(`INSERT INTO calls_state (tenant, is_deleted, version, id, started_at, caller_number, number_key, mhid, campaign, source, medium, keyword, tags)
SELECT '%s', 0, 1, concat('call-', toString(number)), toDateTime64('2024-01-01 00:00:00', 3, 'UTC') + number * 7919 %% (360 * 86400), concat('+', number_key),
    concat('%s', leftPad(toString(number %% %d), 8, '0')) AS number_key, concat('MH-', toString(number %% %d)),
    concat('Campaign ', toString(number %% 100)), 'google', 'cpc', concat('keyword ', toString(number %% 1000)), []
FROM numbers(%d)`, tenant, prefix, n/4, n/3, n))
	for table, key := range map[string]string{"calls_by_number_state": "number_key", "calls_by_mhid_state": "mhid_key"} {
		execute(b, p, fmt.Sprintf(`INSERT INTO %s (tenant, is_deleted, version, %s, started_at, id, mhid, caller_number, campaign, source, medium, keyword)
SELECT tenant, is_deleted, version, %s, started_at, id, mhid, caller_number, campaign, source, medium, keyword FROM calls_state`,
			table, key, strings.Replace(key, "mhid_key", "ifNull(mhid, '')", 1)))
	}
	records := make([]*kgo.Record, 100)
	for i := range records {
		c := &schemas.Call{ID: fmt.Sprintf("other-%d", i), StartedAt: performedOn(i), Tags: []string{}}
		key := schemas.ReferenceKey(tenant, c.ID)
		records[i] = &kgo.Record{Topic: schemas.Calls, Key: key, Partition: schemas.Partition(key, partitions), Headers: bare(i), Value: p.Encode(schemas.Calls, c)}
	}
	p.Produce(records...)
	fmt.Printf("calls: %d\n", n)
}

// soldOn is a day whose lookback of a year has all calls.
var soldOn = time.Date(2024, 12, 31, 0, 0, 0, 0, time.UTC)

// sale is one with an id of its own. Of ten four match by MHID, five by number, and one by nothing.
func sale(i int) *schemas.Sale {
	s := &schemas.Sale{
		ID: new(fmt.Sprintf("S-%08d", i)), Description: new("Annual service"), Date: &soldOn, Value: new("249.99"), MHID: new(""), Lookback: new(int32(12)),
		Properties: []schemas.SaleProperty{{Key: new("1"), Value: new("north")}},
	}
	switch number := caller(i * 7919); {
	case i%10 == 9:
		s.CLIs = &[]string{strings.Replace(number, "020", "011", 1)}
	case i%2 == 0:
		s.CLIs = &[]string{number}
	default:
		s.MHID, s.CLIs = new(visitor(i*7919)), &[]string{}
	}
	return s
}

// unmatched is how many of the first n sales match nothing.
func unmatched(n int) int { return n / 10 }

// saleRecords are n sales as an upstream producer sends them that partitions by the documented key.
func saleRecords(p *harness.Parts, first, n int) []*kgo.Record {
	records := make([]*kgo.Record, n)
	for i := range records {
		item := sale(first + i)
		key := matching.Key(tenant, item, "")
		records[i] = &kgo.Record{Topic: schemas.KindSales, Key: key, Partition: schemas.Partition(key, partitions), Headers: bare(i), Value: p.Encode(schemas.KindSales, item)}
	}
	return records
}

// mediahawkCall is the body of a batch of sales.
func mediahawkCall(first, rows int) []byte {
	all := make([]map[string]any, rows)
	for i := range all {
		s := sale(first + i)
		all[i] = map[string]any{
			"id": *s.ID, "description": *s.Description, "date": s.Date.Format(time.DateOnly), "value": *s.Value, "mhid": *s.MHID, "clis": *s.CLIs,
			"properties": []map[string]any{{"key": 1, "value": "north"}},
		}
	}
	return marshal(map[string]any{"lookback": 12, "sales": all})
}

func marshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps of texts and numbers
	}
	return text
}

// buyer is the customer with buyerLines order and as many invoice lines, every so often among the others', who have about a thousand each.
const (
	buyer      = 77
	buyerLines = 10_000
)

// putLines makes n order and n invoice lines of the last two years, the products' stock, the customer and its part numbers. Lines are made in
// the tables that the report reads, where the sink would put them, and merged, as nearly all lines of a table are after a while; through Kafka and
// the tables by id it would take many times as long. Of 50 million each it takes some minutes.
func putLines(b *testing.B, p *harness.Parts, n int) {
	b.Helper()
	if n < 2*buyerLines {
		b.Fatalf("BENCH_LINES must be at least %d", 2*buyerLines)
	}
	conn := p.Conn()
	var both errgroup.Group
	for kind, day := range map[string]string{"order": "ordered_on", "invoice": "invoiced_on"} {
		table := kind + "_lines_by_customer_state"
		insert := fmt.Sprintf(`INSERT INTO %[1]s (tenant, is_deleted, version, id, order_number, customer, product, product_key, quantity, %[2]s)
SELECT '%[3]s', 0, number, concat('line-', toString(number)), concat('order-', toString(intDiv(number, 4))), if(number %% %[4]d = 0, %[5]d, 1000 + number %% %[6]d),
    concat('%08[7]X', leftPad(hex(intDiv(number, %[4]d) * 7 %% %[8]d), 24, '0')) AS p, lower(p), if(number %% 13 = 0, -1, 1 + number %% 5), toDate32(today()) - toIntervalDay(number * 31 %% 720)
FROM numbers(%[9]d) SETTINGS max_insert_threads = 1, min_insert_block_size_rows = 2000000, min_insert_block_size_bytes = 0`,
			table, day, tenant, n/buyerLines, buyer, n/1000, 2, products, n)
		both.Go(func() error {
			// One merge at the end, instead of one after every few inserts.
			for _, sql := range []string{"SYSTEM STOP MERGES " + table, insert, "SYSTEM START MERGES " + table, "OPTIMIZE TABLE " + table + " FINAL"} {
				if err := conn.Exec(b.Context(), sql); err != nil {
					return fmt.Errorf("%s: %w", sql, err)
				}
			}
			return nil
		})
	}
	if err := both.Wait(); err != nil {
		b.Fatal(err)
	}
	var stock []*kgo.Record
	soon := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, 10)
	var parts []*schemas.CustomerPart
	for i := range products {
		parts = append(parts, &schemas.CustomerPart{Customer: buyer, Product: hexID(2, i), PartNumber: fmt.Sprintf("ACME-%04d", i)})
		s := &schemas.Stock{Product: hexID(2, i), AvailableNow: amount(i % 3 * 100), NextAvailableOn: &soon}
		key := schemas.ReferenceKey(tenant, s.OwnID())
		stock = append(stock, &kgo.Record{Topic: schemas.StockLevels, Key: key, Partition: schemas.Partition(key, partitions), Headers: bare(i), Value: p.Encode(schemas.StockLevels, s)})
	}
	p.Produce(stock...)
	p.Produce(harness.References(p, schemas.CustomerParts, tenant, parts...)...)
	p.Produce(harness.References(p, schemas.Customers, tenant, &schemas.Customer{ID: buyer, AccountNumber: new("ACME01"), Name: new("Acme")})...)
	p.WaitDrained(time.Minute)
	fmt.Printf("lines: %d\n", n)
}

// format is how calls of many rows are written.
type format struct {
	name, mediaType string
	body            func(first, rows int) []byte
}

const avonPath = "/financial-transaction-batches"

// avonFormats are all in which Avon's operation takes a batch.
var avonFormats = []format{
	{"json", "application/json", func(first, rows int) []byte {
		return avonCall(`{"financialTransactions":[`, "{", `"%s":%s`, ",", "}", ",", "]}", func(m transactionMember) string {
			if m.text {
				return string(marshal(m.value))
			}
			return m.value
		}, first, rows)
	}},
	{"jsv", "application/jsv", func(first, rows int) []byte {
		return avonCall("{financialTransactions:[", "{", "%s:%s", ",", "}", ",", "]}", func(m transactionMember) string { return m.value }, first, rows)
	}},
	{"xml", "application/xml", func(first, rows int) []byte {
		return avonCall(`<FinancialTransactionsBatchCreate xmlns="http://schemas.datacontract.org/2004/07/NAV.ServiceModel"><FinancialTransactions>`,
			"<FinancialTransactionsBatchCreateViewModel>", "<%[1]s>%[2]s</%[1]s>", "", "</FinancialTransactionsBatchCreateViewModel>", "",
			"</FinancialTransactions></FinancialTransactionsBatchCreate>", func(m transactionMember) string { return m.value }, first, rows)
	}},
	{"csv", "text/csv", func(first, rows int) []byte {
		var b bytes.Buffer
		w := csv.NewWriter(&b)
		for i := -1; i < rows; i++ {
			var record []string
			for _, m := range transaction(first + max(i, 0)) {
				record = append(record, map[bool]string{true: m.name, false: m.value}[i < 0])
			}
			if err := w.Write(record); err != nil {
				panic(err) // into memory
			}
		}
		w.Flush()
		return b.Bytes()
	}},
	{"form", "application/x-www-form-urlencoded", func(first, rows int) []byte {
		list := avonCall("[", "{", "%s:%s", ",", "}", ",", "]", func(m transactionMember) string { return m.value }, first, rows)
		return []byte(url.Values{"FinancialTransactions": {string(list)}}.Encode())
	}},
}

// avonCall writes rows with the signs of a format.
func avonCall(begin, open, member, comma, end, next, finish string, value func(m transactionMember) string, first, rows int) []byte {
	b := []byte(begin)
	for i := range rows {
		if i > 0 {
			b = append(b, next...)
		}
		b = append(b, open...)
		for j, m := range transaction(first + i) {
			if j > 0 {
				b = append(b, comma...)
			}
			b = fmt.Appendf(b, member, m.name, value(m))
		}
		b = append(b, end...)
	}
	return append(b, finish...)
}

type transactionMember struct {
	name, value string
	text        bool // in JSON
}

// transaction has twelve of the 28 members, as an invoice has. Their texts need no quotes in any format.
func transaction(i int) []transactionMember {
	cents := func(n int) string { return fmt.Sprintf("%d.%02d", n/100, n%100) }
	return []transactionMember{
		{"BeeNumberCustomer", fmt.Sprint(100_000 + i%5000), false}, {"TransactionCode", "INV", true}, {"TransactionAmount", cents(1000 + i%90_000), false},
		{"TransactionBillSeq", fmt.Sprint(i % 7), true}, {"TransactionTime", performedOn(i).Format(time.RFC3339), true}, {"TransactionId", fmt.Sprintf("T%09d", i), true},
		{"Campaign", fmt.Sprintf("C%02d", i%26), true}, {"OrderNumber", fmt.Sprintf("O%08d", i), true}, {"InvoiceNumber", fmt.Sprintf("I%08d", i), true},
		{"RetailSalesAmount", cents(1200 + i%90_000), false}, {"FederalTaxAmount1", cents(i % 5000), false}, {"State", "ON", true},
	}
}

// v1Formats are those of /v1.
var v1Formats = []format{
	{"json", "application/json", func(first, rows int) []byte { return append(append([]byte("["), v1Rows(first, rows, ",")...), ']') }},
	{"ndjson", "application/x-ndjson", func(first, rows int) []byte { return v1Rows(first, rows, "\n") }},
}

func v1Rows(first, rows int, between string) []byte {
	all := make([][]byte, rows)
	for i := range all {
		e := event(first + i)
		row := map[string]any{
			"ref": fmt.Sprint(i), "kind": e.Kind, "account": map[string]any{"number": *e.Account.Number}, "unit": map[string]any{"name": *e.Unit.Name},
			"performed_on": e.PerformedOn.Format(time.RFC3339),
		}
		if e.Products == nil {
			row["website"] = *e.Website
		} else {
			row["reference_number"] = *e.ReferenceNumber
			var goods []map[string]any
			for _, l := range *e.Products {
				goods = append(goods, map[string]any{
					"product": map[string]any{"code": *l.Product.Code}, "quantity": l.Quantity, "net_amount": l.NetAmount, "vat_amount": l.VATAmount, "total_amount": l.TotalAmount,
				})
			}
			row["products"] = goods
		}
		all[i] = marshal(row)
	}
	return bytes.Join(all, []byte(between))
}
