package clickhouse

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/shopspring/decimal"
	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/stack"
)

// The columns that tables.go takes from the Avro schemas are those that the migrations made, by name and type.
func TestColumnsAreThoseOfTheMigrations(t *testing.T) {
	r := newRig(t)
	for _, spec := range allTables() {
		names, types, err := spec.sqlColumns()
		must(t, err)
		want := map[string]string{}
		for i := range names {
			want[names[i]] = types[i]
		}
		rows, err := r.conn.any.Query(t.Context(), "SELECT name, type FROM system.columns WHERE database = ? AND table = ? AND default_kind = ''", r.cfg.Database, spec.name)
		must(t, err)
		got := map[string]string{}
		for rows.Next() {
			var name, typ string
			must(t, rows.Scan(&name, &typ))
			got[name] = typ
		}
		must(t, rows.Close())
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-tables.go +ClickHouse):\n%s", spec.name, diff)
		}
	}
}

// TenantTables is whatever has a column tenant.
func TestTenantTablesAreAll(t *testing.T) {
	r := newRig(t)
	got := strings.Split(r.query("SELECT arrayStringConcat(arraySort(groupUniqArray(table)), ',') FROM system.columns WHERE database = '{db}' AND name = 'tenant'"), ",")
	want := TenantTables()
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("TenantTables (-) and ClickHouse (+):\n%s", diff)
	}
}

func TestMigrateTwiceAtOnce(t *testing.T) {
	server := stack.ClickHouse(t)
	cfg := configOf(t, server)
	conn, err := Open(t.Context(), cfg)
	must(t, err)
	defer conn.Close()
	all, err := Migrations()
	must(t, err)
	plan, err := conn.Migrate(t.Context(), true)
	must(t, err)
	if len(plan) != len(all) {
		t.Errorf("dry run plans %d migrations of %d", len(plan), len(all))
	}
	if err := conn.Migrated(t.Context()); err == nil || !strings.Contains(err.Error(), "counterfoil migrate") {
		t.Errorf("Migrated before: %v", err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := conn.Migrate(context.Background(), false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	must(t, conn.Migrated(t.Context()))
	again, err := conn.Migrate(t.Context(), false)
	must(t, err)
	if len(again) != 0 {
		t.Errorf("a later run did %v", again)
	}
	// A file that changed after it was applied is refused.
	must(t, conn.any.Exec(t.Context(), "ALTER TABLE "+conn.table("migrations")+" UPDATE checksum = 'other' WHERE number = 1 SETTINGS mutations_sync = 1"))
	if _, err := conn.Migrate(t.Context(), true); err == nil || !strings.Contains(err.Error(), "0001_tables was changed") {
		t.Errorf("changed file: %v", err)
	}
}

// fullEvent is a customer event with every member set.
func fullEvent(rng *rand.Rand) *schemas.EventProcessed {
	at := time.UnixMilli(1_700_000_000_000 + rng.Int64N(1e9)).UTC()
	named := &schemas.Identifier{ID: new("I1"), Name: new("name"), AlternativeCode: new("alt")}
	product := &schemas.ProductIdentifier{ID: new("P1"), Code: new("code"), AlternativeCode: new("alt")}
	amount := func() *schemas.Decimal { return new(decimal.New(rng.Int64N(1e15)-5e14, -10)) }
	return &schemas.EventProcessed{
		EventResult: schemas.EventResult{
			Outcome: schemas.Outcome{
				Tenant: "acme", ID: schemas.NewBatchKey(), Batch: new(schemas.NewBatchKey()), Index: 3, Attempt: 2, Ref: new("06"),
				SourceTopic: "customer_events", SourceEpoch: 1, SourcePartition: 2, SourceOffset: 1 << 40, AcceptedAt: at, JudgedAt: at,
			},
			Kind: "purchase", Number: 17, AccountID: new("A1"), AccountNumber: new("100"), ParticipantID: new("R1"), ParticipantNumber: new("200"),
			ClassificationID: new("C1"), UnitID: "U1", CurrencyCode: new("EUR"), PaymentMediumTypeID: new("T1"), PaymentMediumBrandID: new("B1"),
			InvoiceID: new("N1"), ProductID: new("P1"), LineProductIDs: []string{"P1", "P2"}, KPIIDs: []string{"K1"}, AmountsDiffer: true,
		},
		Item: schemas.CustomerEvent{
			Kind: "purchase", Account: &schemas.AccountIdentifier{ID: new("a"), Number: new("100"), Name: new("n")},
			Participant: &schemas.ParticipantIdentifier{ID: new("r"), Number: new("200")},
			EventCommon: schemas.EventCommon{
				Classification: named, Unit: named, PerformedOn: &at, Description: new("Ünïcode"), ExternalSystem: new("x"),
				ExternalSystemReferenceNumber: new("y"), UDFString1: new("1"), UDFString8: new("8"), UDFFloat1: new(1.5), UDFFloat4: new(-4e-9), UDFDate1: &at, UDFDate4: &at,
			},
			UDFString9: new("9"), UDFString16: new("16"), ReferenceNumber: new("ref"), PaymentMediumType: named, PaymentMediumBrand: named, PaymentMedium: new("card"),
			Invoice:          &schemas.InvoiceIdentifier{ID: new("i"), Number: new("n"), ReferenceNumber: new("r"), BackOfficeCode: new("b")},
			IntendedCurrency: &schemas.CurrencyIdentifier{Code: new("EUR")},
			Products: &[]schemas.PurchaseLine{
				{Product: product, Quantity: amount(), NetAmount: amount(), VATAmount: amount(), TotalAmount: amount()},
				{TotalAmount: new(decimal.RequireFromString("9999999999999999999999999999.9999999999"))},
			},
			SocialMedia: new("s"), Profile: new("p"), Action: new("a"), Website: new("w"), Product: product, Amount: amount(),
			Measures: &[]schemas.Measure{{KPI: named, Value: amount(), Product: product}},
		},
	}
}

// Every column arrives as it was in the record, set or not.
func TestColumnsHoldWhatTheRecordSaid(t *testing.T) {
	r := newRig(t)
	r.start(nil)
	full := fullEvent(rand.New(rand.NewPCG(1, 2)))
	bare := &schemas.EventProcessed{
		EventResult: schemas.EventResult{Outcome: schemas.Outcome{Tenant: "acme", ID: schemas.NewBatchKey(), Attempt: 1, AcceptedAt: full.AcceptedAt, JudgedAt: full.JudgedAt},
			Kind: "web", UnitID: "U1", LineProductIDs: []string{}, KPIIDs: []string{}},
		Item: schemas.CustomerEvent{Kind: "web"},
	}
	r.produce(&kgo.Record{Topic: "customer_events.processed", Value: r.encode("customer_events.processed", full)},
		&kgo.Record{Topic: "customer_events.processed", Value: r.encode("customer_events.processed", bare)})
	r.wait("2", "SELECT count() FROM {db}.customer_events")
	r.wait("2", "SELECT count() FROM {db}.purchase_lines")
	one := func(of, expr, want string) {
		t.Helper()
		if got := r.query("SELECT toString(" + expr + ") FROM {db}.customer_events WHERE kind = '" + of + "'"); got != want {
			t.Errorf("%s of the %s: %q, want %q", expr, of, got, want)
		}
	}
	line := (*full.Item.Products)[0]
	for expr, want := range map[string]string{
		"id": full.ID, "batch": *full.Batch, "`index`": "3", "attempt": "2", "ref": "06", "source_offset": "1099511627776", "source_epoch": "1",
		"toUnixTimestamp64Milli(accepted_at)": decimal.NewFromInt(full.AcceptedAt.UnixMilli()).String(), "number": "17", "account_number": "100",
		"amounts_differ": "true", "line_product_ids": "['P1','P2']", "given_account_name": "n", "given_unit_alternative_code": "alt",
		"toUnixTimestamp64Milli(performed_on)": decimal.NewFromInt(full.Item.PerformedOn.UnixMilli()).String(), "description": "Ünïcode",
		"udf_string_1": "1", "isNull(udf_string_2)": "1", "udf_string_16": "16", "udf_float_4": "-4e-9", "isNull(udf_date_2)": "1", "payment_medium": "card",
		"given_invoice_back_office_code": "b", "line_given_product_code": "['code',NULL]", "line_quantity[1]": line.Quantity.String(), "isNull(line_quantity[2])": "1",
		"line_total_amount[2]": "9999999999999999999999999999.9999999999", "amount": full.Item.Amount.String(), "measure_value[1]": (*full.Item.Measures)[0].Value.String(),
		"measure_given_kpi_name": "['name']", "given_product_id": "P1", "website": "w", "topic": "customer_events.processed", "write_by > now64(3)": "1",
	} {
		one("purchase", expr, want)
	}
	for expr, want := range map[string]string{
		"batch": "", "isNull(ref)": "1", "isNull(given_account_id)": "1", "isNull(account_id)": "1", "isNull(performed_on)": "1", "isNull(amount)": "1",
		"length(line_quantity) + length(measure_value) + length(line_product_ids)": "0", "amounts_differ": "false",
	} {
		one("web", expr, want)
	}
	if got := r.query("SELECT concat(toString(purchases), ' ', toString(lines), ' ', currency_code) FROM {db}.purchases_by_account WHERE account_id = 'A1'"); got != "1 2 EUR" {
		t.Errorf("purchases_by_account: %s", got)
	}
}

// An account has one line of purchases in a currency, whenever its record came, however it is spelled and whatever number it had before.
func TestPurchasesByAccount(t *testing.T) {
	conn := migrated(t)
	for _, values := range []string{
		"1, 'az9', 'AZN2', 'EUR'", "2, 'AZ9', 'AZN1', 'EUR'", "3, 'Az9', NULL, 'EUR'", "4, 'AZ9', 'AZN3', 'USD'",
		"5, 'B', 'AZN1', 'EUR'", "4, 'C', 'AZN4', 'EUR'", "5, 'C', NULL, 'USD'", "6, NULL, NULL, 'EUR'", "7, NULL, NULL, 'EUR'", "8, NULL, NULL, NULL",
	} {
		n, rest, _ := strings.Cut(values, ", ")
		must(t, conn.any.Exec(t.Context(), "INSERT INTO "+conn.table("customer_events")+" (write_by, tenant, kind, number, judged_at, account_id, account_number, currency_code, line_quantity, line_net_amount) "+
			"VALUES (now64(3) + 60, 'acme', 'purchase', "+n+", toDateTime64("+n+", 3, 'UTC'), "+rest+", [1], ["+n+"])"))
	}
	var got string
	must(t, conn.any.QueryRow(t.Context(), "SELECT toString(arraySort(groupArray((account_id, account_number, currency_code, purchases, net_amount)))) FROM "+conn.table("purchases_by_account")+" WHERE tenant = 'acme'").Scan(&got))
	if want := "[('AZ9','AZN3','EUR',3,6),('AZ9','AZN3','USD',1,4),('B','AZN1','EUR',1,5),('C','AZN4','EUR',1,4),('C','AZN4','USD',1,5),(NULL,NULL,'EUR',2,13),(NULL,NULL,NULL,1,8)]"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	var columns string
	must(t, conn.any.QueryRow(t.Context(), "SELECT toString(groupArray((name, type))) FROM (SELECT name, type FROM system.columns WHERE database = ? AND table = 'purchases_by_account' ORDER BY position)", conn.cfg.Database).Scan(&columns))
	want := "[('tenant','String'),('account_id','Nullable(String)'),('account_number','Nullable(String)'),('currency_code','Nullable(String)'),('purchases','UInt64'),('lines','UInt64')," +
		"('net_amount','Decimal(38, 10)'),('vat_amount','Decimal(38, 10)'),('total_amount','Decimal(38, 10)'),('first_performed_on','Nullable(DateTime64(3, \\'UTC\\'))'),('last_performed_on','Nullable(DateTime64(3, \\'UTC\\'))')]"
	if columns != want {
		t.Errorf("%s\nwant %s", columns, want)
	}
}

// A writer may lack members, have others, other unions and narrower types.
func TestOtherWriterSchemas(t *testing.T) {
	spec := reference(schemas.Products, schemas.ProductSchema, []string{"id"}, same("id", "number", "code", "alternative_code", "description", "barcodes"))
	older := `{"type":"record","name":"Product","namespace":"counterfoil","fields":[
		{"name":"noise","type":{"type":"map","values":{"type":"array","items":["null","long",{"type":"record","name":"N","fields":[{"name":"x","type":"double"}]}]}}},
		{"name":"barcodes","type":["null",{"type":"array","items":"string"}],"default":null},
		{"name":"id","type":"string"},
		{"name":"number","type":["int","null"],"default":0},
		{"name":"code","type":"bytes"}]}`
	writer, err := avro.Parse(older)
	must(t, err)
	cfg := sinkConfig()
	f, err := newFill(spec, &cfg, fixedWriter{writer})
	must(t, err)
	p := &part{topicPartition: topicPartition{topic: schemas.Products}}
	encode := func(v map[string]any) []byte {
		b, err := writer.AppendEncode([]byte{0, 0, 0, 0, 7}, v)
		must(t, err)
		return b
	}
	good := encode(map[string]any{"noise": map[string]any{"a": []any{nil, int64(5), map[string]any{"x": 1.5}}}, "barcodes": []any{"1", "2"}, "id": "p", "number": int32(9), "code": []byte("c")})
	bare := encode(map[string]any{"noise": map[string]any{}, "barcodes": nil, "id": "q", "number": nil, "code": []byte("d")})
	add := func(rec *kgo.Record) error {
		_, err := f.add(rec, p)
		return err
	}
	must(t, add(&kgo.Record{Key: []byte("acme/p"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: good}))
	var bad *schemas.BadRecordError
	for name, rec := range map[string]*kgo.Record{
		"cut off":     {Key: []byte("acme/p"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: good[:len(good)-1]},
		"too long":    {Key: []byte("acme/p"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: append(slices.Clone(good), 0)},
		"key of q":    {Key: []byte("acme/q"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: good},
		"no key":      {Value: good},
		"no framing":  {Key: []byte("acme/p"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: []byte("{}")},
		"null no key": {},
	} {
		if err := add(rec); !isBad(err, &bad) {
			t.Errorf("%s: %v", name, err)
		}
		if f.rows() != 1 {
			t.Fatalf("%s: left %d rows", name, f.rows())
		}
	}
	must(t, add(&kgo.Record{Key: []byte("acme/q"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: bare}))
	must(t, add(&kgo.Record{Key: []byte("acme/r"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}}))
	var got []string
	for i, name := range f.names {
		f.cols[i].settle(f.rows())
		switch c := f.cols[i].(type) {
		case *col[string]:
			got = append(got, name+" "+strings.Join(c.vals, "|"))
		}
	}
	want := []string{"tenant acme|acme|acme", "id p|q|r", "code c|d|", "alternative_code ||", "description ||", "barcodes 1|2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]uint8{0, 0, 1}, f.deleted.vals); diff != "" {
		t.Errorf("is_deleted: %s", diff)
	}
	// The middle row goes, with what belongs to it.
	p2 := &part{gone: true}
	f.owners[0] = p2
	f.dropGone()
	if diff := cmp.Diff([]string{"q", "r"}, f.key[0].(*col[string]).vals); diff != "" || f.rows() != 2 {
		t.Errorf("after dropping: %s, %d rows", diff, f.rows())
	}
}

type fixedWriter struct{ schema *avro.Schema }

func (w fixedWriter) WriterSchema(int32) (*avro.Schema, string, error) { return w.schema, "", nil }

func isBad(err error, to **schemas.BadRecordError) bool {
	bad, ok := err.(*schemas.BadRecordError)
	*to = bad
	return ok
}

// Whatever bytes come, the filler ends with an error or a row, in bounded time.
func FuzzFill(f *testing.F) {
	event := fullEvent(rand.New(rand.NewPCG(3, 4)))
	data, err := schemas.EventProcessedSchema.Avro().AppendEncode([]byte{0, 0, 0, 0, 1}, event)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:40])
	// Made once: compiling the schema takes a thousand times as long as filling a row.
	cfg := sinkConfig()
	fill, err := newFill(customerEventsTable, &cfg, fixedWriter{schemas.EventProcessedSchema.Avro()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fill.reset()
		rows := 0
		for range 2 {
			_, err := fill.add(&kgo.Record{Value: data}, &part{})
			if err == nil {
				rows++
			}
			if fill.rows() != rows {
				t.Fatalf("%d rows after %d", fill.rows(), rows)
			}
			for _, c := range fill.cols {
				c.truncate(rows) // panics where a column is short
			}
			var want schemas.EventProcessed
			rest, derr := schemas.EventProcessedSchema.Avro().Decode(data[min(5, len(data)):], &want)
			if err == nil && (derr != nil || len(rest) > 0) {
				t.Fatalf("the filler took what the codec refuses: %v", derr)
			}
		}
	})
}
