package clickhouse

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// Of the records of one id the one that the broker took last counts, whichever partition it came by and in whichever order they are read;
// a null value deletes; what its key does not name, or cannot be kept, is a dead letter.
func TestFactsAndTheirDeadLetters(t *testing.T) {
	r := newRig(t)
	r.start(nil)
	at := func(ms int64) time.Time { return time.UnixMilli(1_700_000_000_000 + ms) }
	stock := func(id string, available int64) *schemas.Stock {
		return &schemas.Stock{Product: id, AvailableNow: decimal.New(available, -1), Physical: new(decimal.New(-5, -10)), NextAvailableOn: new(time.Date(2261, 12, 31, 0, 0, 0, 0, time.UTC))}
	}
	line := func(id string) *schemas.OrderLine {
		return &schemas.OrderLine{ID: id, Customer: 7, Product: "p", Quantity: decimal.New(1, 0), OrderedOn: time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)}
	}
	call := func(id string) *schemas.Call {
		return &schemas.Call{ID: id, StartedAt: time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC), CallerNumber: new("+44 (0)7911 123456"), Tags: []string{"a", "b"}}
	}
	part := func(customer int64, product, number string) *schemas.CustomerPart {
		return &schemas.CustomerPart{Customer: customer, Product: product, PartNumber: number}
	}
	late, early := line("late"), call("early")
	late.OrderedOn = time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC)
	early.StartedAt = time.Date(1899, 12, 31, 23, 59, 59, 0, time.UTC)
	noTenant := r.fact(schemas.StockLevels, 0, at(1), "x", stock("x", 1))
	noTenant.Headers = nil
	r.produce(
		// The last one comes by another partition, and is followed there, and before it is read, by ones of other times.
		r.fact(schemas.StockLevels, 3, at(20), "A", stock("A", 20)),
		r.fact(schemas.StockLevels, 0, at(10), "A", stock("A", 10)),
		r.fact(schemas.StockLevels, 1, at(30), "A", stock("A", 30)),
		r.fact(schemas.StockLevels, 1, at(25), "A", stock("A", 25)),
		// In one millisecond the offset decides.
		r.fact(schemas.StockLevels, 2, at(5), "B", stock("B", 1)),
		r.fact(schemas.StockLevels, 2, at(5), "B", stock("B", 2)),
		// Deleted, sent again, and deleted before.
		r.fact(schemas.StockLevels, 0, at(1), "C", stock("C", 1)),
		r.fact(schemas.StockLevels, 1, at(2), "C", nil),
		r.fact(schemas.StockLevels, 2, at(1), "D", nil),
		r.fact(schemas.StockLevels, 3, at(2), "D", stock("D", 4)),
		r.fact(schemas.OrderLines, 0, at(1), "L1", line("L1")),
		r.fact(schemas.OrderLines, 1, at(2), "L2", line("L2")),
		r.fact(schemas.OrderLines, 2, at(3), "L2", nil),
		r.fact(schemas.Calls, 0, at(1), "c1", call("c1")),
		// Own ids that are numbers, or of two parts, of which the last may have a slash.
		r.fact(schemas.Customers, 0, at(0), "7", &schemas.Customer{ID: 7, AccountNumber: new("ACME01")}),
		r.fact(schemas.Customers, 0, at(0), "-8", &schemas.Customer{ID: -8}),
		r.fact(schemas.Customers, 0, at(0), "9", &schemas.Customer{ID: 9}),
		r.fact(schemas.Customers, 0, at(0), "9", nil),
		r.fact(schemas.CustomerParts, 0, at(0), "7/p", part(7, "p", "mine")),
		r.fact(schemas.CustomerParts, 0, at(0), "7/a/b", part(7, "a/b", "slash")),
		r.fact(schemas.CustomerParts, 0, at(0), "7/c/d", part(7, "c/d", "gone")),
		r.fact(schemas.CustomerParts, 0, at(0), "7/c/d", nil),

		r.fact(schemas.StockLevels, 0, at(1), "other", stock("A", 99)),
		noTenant,
		r.fact(schemas.OrderLines, 0, at(1), "late", late),
		r.fact(schemas.Calls, 0, at(1), "early", early),
		r.fact(schemas.Calls, 0, at(1), "another", call("c1")),
		r.fact(schemas.Customers, 0, at(0), "0007", nil),
		r.fact(schemas.Customers, 0, at(0), "seven", nil),
		r.fact(schemas.CustomerParts, 0, at(0), "7", nil),
	)
	for sql, want := range map[string]string{
		"SELECT arraySort(groupArray(tuple(product, available_now, physical, next_available_on, next_available_quantity))) FROM {db}.stock WHERE product = 'A'":      "[('A',3,-0.0000000005,'2261-12-31',NULL)]",
		"SELECT arraySort(groupArray(tuple(product, available_now))) FROM {db}.stock":                                                                                "[('A',3),('B',0.2),('D',0.4)]",
		"SELECT arraySort(groupArray(tuple(id, customer, product, quantity, ordered_on))) FROM {db}.order_lines":                                                     "[('L1',7,'p',1,'2024-02-29')]",
		"SELECT groupArray(tuple(tenant, id, started_at, caller_number, number_key, mhid, tags)) FROM {db}.calls":                                                    "[('acme','c1','1900-01-01 00:00:00.000','+44 (0)7911 123456','447911123456',NULL,['a','b'])]",
		"SELECT arraySort(groupArray(tuple(id, account_number))) FROM {db}.customers":                                                                                "[(-8,NULL),(7,'ACME01')]",
		"SELECT arraySort(groupArray(tuple(customer, product, part_number))) FROM {db}.customer_parts":                                                               "[(7,'a/b','slash'),(7,'p','mine')]",
		"SELECT arraySort(groupArray(tuple(source_topic, reason_code))) FROM {db}.dead_letters":                                                                      "[('calls','key_mismatch'),('calls','out_of_range'),('customer_parts','key_mismatch'),('customers','key_mismatch'),('customers','key_mismatch'),('order_lines','out_of_range'),('stock','key_mismatch'),('stock','tenant_missing')]",
		"SELECT groupArray(reason_message) FROM {db}.dead_letters WHERE reason_code = 'out_of_range' AND source_topic = 'calls'":                                     "['started_at lies outside 1900-01-01 to 2261-12-31']",
		"SELECT count() FROM {db}.calls_by_number_state FINAL WHERE is_deleted = 0":                                                                                  "1",
		"SELECT count() FROM {db}.calls_by_mhid_state":                                                                                                               "0",
		"SELECT arraySort(groupArray(tuple(id, is_deleted))) FROM {db}.order_lines_by_customer_state FINAL SETTINGS do_not_merge_across_partitions_select_final = 0": "[('L1',0)]",
	} {
		r.wait(want, sql)
	}
}

// Every .NET decimal, and more than that, arrives digit by digit, and an instant with all of its nanoseconds.
func TestTransactionsAreExact(t *testing.T) {
	r := newRig(t)
	r.start(nil)
	at := time.UnixMilli(1_700_000_000_000).UTC()
	n := int32(0)
	record := func(partition int32, accepted time.Time, item schemas.Transaction) *kgo.Record {
		n++
		batch := "0123456789abcdef0123456789abcdef"
		return &kgo.Record{Topic: "transactions.processed", Partition: partition, Value: r.encode("transactions.processed", &schemas.TransactionProcessed{
			TransactionResult: schemas.TransactionResult{Outcome: schemas.Outcome{Tenant: "acme", ID: schemas.ItemID("acme", batch, n), Batch: &batch, Index: n, Attempt: 1,
				SourceTopic: "transactions", SourcePartition: partition, SourceOffset: int64(n), AcceptedAt: accepted, JudgedAt: at}}, Item: item})}
	}
	instant := time.Date(2024, 2, 29, 23, 59, 59, 123_456_700, time.UTC)
	first, last := time.Date(1900, 1, 1, 0, 0, 0, 1, time.UTC), time.Date(2261, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	values := []string{
		"79228162514264337593543950335", "-79228162514264337593543950335", "7.9228162514264337593543950335", "0.0000000000000000000000000001",
		"-0.0000000000000000000000000001", strings.Repeat("9", 29) + "." + strings.Repeat("9", 28), "0", "99.90", "-1",
	}
	var records []*kgo.Record
	for _, v := range values {
		d := decimal.RequireFromString(v)
		records = append(records, record(0, at, schemas.Transaction{TransactionID: &v, TransactionAmount: &d, CurrentBalance: &d, TransactionTime: &instant}))
	}
	records = append(records, record(1, at, schemas.Transaction{TransactionID: new("first"), TransactionTime: &first}), record(1, at, schemas.Transaction{TransactionID: new("last"), TransactionTime: &last}))
	r.produce(records...)
	r.wait("11", "SELECT count() FROM {db}.transactions")
	for _, v := range values {
		want := decimal.RequireFromString(v)
		for _, column := range []string{"transaction_amount", "current_balance"} {
			got := r.query("SELECT toString(assumeNotNull("+column+")) FROM {db}.transactions WHERE transaction_id = ?", v)
			if d, err := decimal.NewFromString(got); err != nil || !d.Equal(want) {
				t.Errorf("%s %s is kept as %s", column, v, got)
			}
		}
	}
	for id, want := range map[string]string{"0": "2024-02-29 23:59:59.123456700", "first": "1900-01-01 00:00:00.000000001", "last": "2261-12-31 23:59:59.999999999"} {
		if got := r.query("SELECT toString(transaction_time) FROM {db}.transactions WHERE transaction_id = ?", id); got != want {
			t.Errorf("time of %s: %s, want %s", id, got, want)
		}
	}

	// The natural key: the later one replaces, absent members are equal to each other, and without an id nothing is replaced.
	bee := new(decimal.New(42, 0))
	tx := func(id *string, seq *string, code string, on *time.Time) schemas.Transaction {
		return schemas.Transaction{BeeNumberCustomer: bee, TransactionID: id, TransactionBillSeq: seq, TransactionTime: on, TransactionCode: &code}
	}
	r.produce(
		record(0, at.Add(1), tx(new("T"), new("1"), "old", &instant)), record(3, at.Add(time.Second), tx(new("T"), new("1"), "new", &instant)), record(0, at.Add(2), tx(new("T"), new("1"), "older", &instant)),
		record(0, at, tx(new("T"), nil, "first of a batch", &instant)), record(0, at, tx(new("T"), nil, "second of a batch", &instant)),
		record(0, at, tx(new("T"), new("1"), "no time", nil)), record(0, at, tx(new("T"), new("1"), "no time, later", nil)),
		record(0, at, tx(nil, new("1"), "no id", &instant)), record(0, at, tx(nil, new("1"), "no id", &instant)), record(0, at, tx(new(""), new("1"), "empty id", &instant)), record(0, at, tx(new(""), new("1"), "empty id", &instant)))
	r.wait("22", "SELECT count() FROM {db}.transactions")
	want := "['empty id','empty id','new','no id','no id','no time, later','second of a batch']"
	if got := r.query("SELECT arraySort(groupArray(assumeNotNull(transaction_code))) FROM {db}.transactions_current WHERE isNotNull(transaction_code)"); got != want {
		t.Errorf("transactions_current: %s, want %s", got, want)
	}
	if got := r.query("SELECT count() FROM {db}.outcomes WHERE kind = 'transactions' AND processed = 1"); got != "22" {
		t.Errorf("%s outcomes of transactions", got)
	}
}

// Records that came through the API have outcomes of their own kind, as a batch has that they came in.
func TestOutcomesOfReferences(t *testing.T) {
	r := newRig(t)
	r.start(nil)
	at := time.UnixMilli(1_700_000_000_000).UTC()
	batch := schemas.NewBatchKey()
	outcome := func(n int32) schemas.Outcome {
		return schemas.Outcome{Tenant: "acme", ID: schemas.ItemID("acme", batch, n), Batch: &batch, Index: n, Attempt: 1, SourceTopic: schemas.Calls, SourceOffset: 5, AcceptedAt: at, JudgedAt: at}
	}
	r.produce(
		&kgo.Record{Topic: schemas.Batches, Value: r.encode(schemas.Batches, &schemas.BatchHeader{Tenant: "acme", Key: batch, Kind: schemas.References, ItemKind: new(schemas.Calls), Door: "v1", KeyID: "k", Items: 2, AcceptedAt: at})},
		&kgo.Record{Topic: "references.processed", Value: r.encode("references.processed", &schemas.ReferenceProcessed{Outcome: outcome(0), Kind: schemas.Calls, OwnID: "c1"})},
		&kgo.Record{Topic: "references.unprocessed", Value: r.encode("references.unprocessed", &schemas.Unprocessed{Outcome: outcome(1), Kind: schemas.References, ItemKind: new(schemas.Calls),
			Reasons: []schemas.Reason{{Code: schemas.CodeMissing, Field: "started_at", Message: "m"}}, Format: schemas.FormatJSON, Original: []byte("{}")})})
	r.wait("('complete',1,1)", "SELECT tuple(status, processed, unprocessed) FROM {db}.batch_status")
	r.wait("[('references','calls',1),('references','calls',0)]", "SELECT groupArray(x) FROM (SELECT tuple(kind, item_kind, processed) AS x FROM {db}.outcomes ORDER BY `index`)")
	items, err := r.conn.Reports().BatchItems(t.Context(), "acme", schemas.References, batch, true, -1, 10)
	if must(t, err); len(items) != 1 || items[0].Index != 0 {
		t.Errorf("processed items: %v", items)
	}
	if got := r.query("SELECT concat(kind, own_id) FROM {db}.references"); got != "callsc1" {
		t.Errorf("references: %s", got)
	}
}

// Writers with other units and scales: nothing is rounded or wraps around on the way.
func TestWidthsOfOtherWriters(t *testing.T) {
	for name, c := range map[string]struct {
		field string // of the writer's schema
		value any
		want  string // of the column; a reason code where the record is refused
	}{
		"micros":                     {`{"name":"transaction_time","type":{"type":"long","logicalType":"timestamp-micros"}}`, int64(1_700_000_000_123_456), "2023-11-14T22:13:20.123456Z"},
		"millis":                     {`{"name":"transaction_time","type":{"type":"long","logicalType":"timestamp-millis"}}`, int64(1_700_000_000_123), "2023-11-14T22:13:20.123Z"},
		"nanos before 1970":          {`{"name":"transaction_time","type":{"type":"long","logicalType":"timestamp-nanos"}}`, int64(-1), "1969-12-31T23:59:59.999999999Z"},
		"millis of the year 9999":    {`{"name":"transaction_time","type":{"type":"long","logicalType":"timestamp-millis"}}`, int64(253_402_300_799_000), schemas.CodeOutOfRange},
		"micros of the year 1":       {`{"name":"transaction_time","type":{"type":"long","logicalType":"timestamp-micros"}}`, int64(-62_135_596_800_000_000), schemas.CodeOutOfRange},
		"nanos of 2262":              {`{"name":"transaction_time","type":{"type":"long","logicalType":"timestamp-nanos"}}`, maxInstant.UnixNano(), schemas.CodeOutOfRange},
		"a decimal of another":       {`{"name":"transaction_amount","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}}`, []byte{0xff, 0x01}, "-2.55"},
		"a decimal that is too big":  {`{"name":"transaction_amount","type":{"type":"bytes","logicalType":"decimal","precision":40,"scale":0}}`, []byte("\x7f234567890123456"), schemas.CodeOutOfRange},
		"a decimal that is too fine": {`{"name":"transaction_amount","type":{"type":"bytes","logicalType":"decimal","precision":40,"scale":29}}`, []byte{1}, schemas.CodeOutOfRange},
	} {
		t.Run(name, func(t *testing.T) {
			plain, err := avro.Parse(`{"type":"record","name":"Transaction","namespace":"counterfoil","fields":[` + stripLogical(c.field) + `]}`)
			must(t, err)
			writer, err := schemas.ParseAvro(`{"type":"record","name":"Transaction","namespace":"counterfoil","fields":[` + c.field + `]}`)
			must(t, err)
			spec := &tableSpec{name: "t", sources: of(schemas.TransactionSchema, same("transaction_time", "transaction_amount"))}
			cfg := sinkConfig()
			f, err := newFill(spec, &cfg, fixedWriter{writer})
			must(t, err)
			data, err := plain.AppendEncode([]byte{0, 0, 0, 0, 1}, map[string]any{strings.Split(c.field, `"`)[3]: c.value})
			must(t, err)
			_, err = f.add(&kgo.Record{Value: data}, &part{})
			var bad *schemas.BadRecordError
			if isBad(err, &bad) {
				if bad.Code != c.want || !strings.HasPrefix(bad.Message, "transaction_") {
					t.Errorf("%s: %s", bad.Code, bad.Message)
				}
				return
			}
			must(t, err)
			got := ""
			for i, name := range f.names {
				switch col := f.cols[i].(type) {
				case *col[time.Time]:
					if name == "transaction_time" && col.used() {
						got = col.vals[0].Format(time.RFC3339Nano)
					}
				case *col[schemas.Decimal]:
					if col.used() {
						got = col.vals[0].String()
					}
				}
			}
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// stripLogical leaves the underlying type of a field.
func stripLogical(field string) string {
	before, _, _ := strings.Cut(field, `,"logicalType"`)
	return before + "}}"
}

// A record of another kind, or one that lacks what it must have, is no row of zeros.
func TestSchemasThatAreNotOurs(t *testing.T) {
	const id, customer, product, on = `{"name":"id","type":"string"},`, `{"name":"customer","type":"long"},`, `{"name":"product","type":"string"},`, `{"name":"ordered_on","type":{"type":"int","logicalType":"date"}}`
	const decimal = `{"type":"bytes","logicalType":"decimal","precision":38,"scale":10}`
	const quantity = `{"name":"quantity","type":` + decimal + `},`
	event := schemas.EventProcessedSchema.Text()
	for name, c := range map[string]struct {
		spec   *tableSpec
		writer string
		want   string // in the message; empty: it is read
	}{
		"ours":               {factTables[schemas.OrderLines][0], `{"type":"record","name":"OrderLine","fields":[` + id + customer + product + quantity + on + `]}`, ""},
		"another namespace":  {factTables[schemas.OrderLines][0], `{"type":"record","name":"other.OrderLine","fields":[` + id + customer + product + quantity + on + `]}`, ""},
		"a call":             {factTables[schemas.OrderLines][0], schemas.CallSchema.Text(), "it is the record Call, not OrderLine"},
		"a unit":             {referenceTables[schemas.Accounts], schemas.UnitSchema.Text(), "it is the record Unit, not Account"},
		"a string":           {referenceTables[schemas.Accounts], `"string"`, "it has a value of type string for one of type record"},
		"without a quantity": {factTables[schemas.OrderLines][0], `{"type":"record","name":"OrderLine","fields":[` + id + customer + product + on + `]}`, "it lacks the member quantity"},
		"a quantity of null": {factTables[schemas.OrderLines][0], `{"type":"record","name":"OrderLine","fields":[` + id + customer + product + `{"name":"quantity","type":["null",` + decimal + `]},` + on + `]}`, "quantity is null"},
		// Members are looked at as well.
		"an outcome's item": {customerEventsTable, strings.Replace(event, `"name":"CustomerEvent"`, `"name":"Other"`, 1), "item: it is the record Other, not CustomerEvent"},
		"an outcome's own":  {customerEventsTable, event, ""},
	} {
		t.Run(name, func(t *testing.T) {
			writer, err := schemas.ParseAvro(c.writer)
			must(t, err)
			cfg := sinkConfig()
			f, err := newFill(c.spec, &cfg, fixedWriter{writer})
			must(t, err)
			// The id L and zeros: the number 0, an empty text, null.
			value := append([]byte("\x00\x00\x00\x00\x01\x02L"), make([]byte, max(0, len(writer.Root().Fields)-1))...)
			if c.spec.key == nil {
				value, err = writer.AppendEncode(make([]byte, 5), fullEvent(rand.New(rand.NewPCG(1, 2))))
				must(t, err)
			}
			_, err = f.add(&kgo.Record{Key: []byte("acme/L"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: value}, &part{})
			var bad *schemas.BadRecordError
			if c.want == "" {
				must(t, err)
			} else if !isBad(err, &bad) || bad.Code != schemas.CodeUndecodable || !strings.Contains(bad.Message, c.want) || f.rows() != 0 {
				t.Errorf("%v, %d rows; want %q", err, f.rows(), c.want)
			}
		})
	}
}
