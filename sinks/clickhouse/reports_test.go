package clickhouse

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

func TestReportsAndViews(t *testing.T) {
	r := newRig(t)
	r.start(nil)
	at := time.UnixMilli(1_700_000_000_000).UTC()
	key, other := schemas.NewBatchKey(), schemas.NewBatchKey()
	header := func(tenant, key string, items int32) *kgo.Record {
		return &kgo.Record{Topic: schemas.Batches, Value: r.encode(schemas.Batches, &schemas.BatchHeader{
			Tenant: tenant, Key: key, Kind: schemas.KindCustomerEvents, ItemKind: new("purchase"), Door: "crm.com", KeyID: "k", Items: items, AcceptedAt: at})}
	}
	outcome := func(index, attempt int32) schemas.Outcome {
		return schemas.Outcome{Tenant: "acme", ID: schemas.ItemID("acme", key, index), Batch: &key, Index: index, Attempt: attempt, Ref: new("r"),
			SourceTopic: "customer_events", AcceptedAt: at, JudgedAt: at}
	}
	good := func(index, attempt int32) *kgo.Record {
		e := fullEvent(rand.New(rand.NewPCG(1, uint64(index))))
		e.Outcome = outcome(index, attempt)
		return &kgo.Record{Topic: "customer_events.processed", Value: r.encode("customer_events.processed", e)}
	}
	reasons := []schemas.Reason{{Code: schemas.CodeNotFound, Field: "account", Value: new("7"), Message: "m"}, {Code: schemas.CodeMissing, Field: "unit", Message: "n"}}
	bad := func(index, attempt int32) *kgo.Record {
		return &kgo.Record{Topic: "customer_events.unprocessed", Value: r.encode("customer_events.unprocessed", &schemas.Unprocessed{
			Outcome: outcome(index, attempt), Kind: schemas.KindCustomerEvents, ItemKind: new("purchase"), Reasons: reasons, Format: schemas.FormatJSON, Original: []byte("{}")})}
	}
	first := r.query("SELECT 1") // the connection works before records are counted
	if first != "1" {
		t.Fatal(first)
	}
	// Item 1 failed twice, item 2 at first only, item 3 has no outcome yet.
	r.produce(header("other", other, 1), header("acme", key, 4), good(0, 1), bad(1, 1), bad(1, 2), bad(2, 1), good(2, 2))
	r.wait("2 2 3", "SELECT concat(toString((SELECT count() FROM {db}.batches)), ' ', toString((SELECT count() FROM {db}.customer_events)), ' ', toString((SELECT count() FROM {db}.unprocessed)))")

	reports, ctx := r.conn.Reports(), t.Context()
	batches, err := reports.Batches(ctx, "acme", 0, 10)
	must(t, err)
	if len(batches) != 1 {
		t.Fatalf("%d batches", len(batches))
	}
	want := schemas.BatchReport{Number: batches[0].Number, Key: key, Tenant: "acme", Kind: schemas.KindCustomerEvents, ItemKind: new("purchase"), Door: "crm.com",
		Items: 4, Processed: 2, Unprocessed: 1, AcceptedAt: at}
	if diff := cmp.Diff(want, batches[0]); diff != "" {
		t.Errorf("Batches (-want +got):\n%s", diff)
	}
	one, err := reports.Batch(ctx, "acme", want.Number)
	must(t, err)
	if diff := cmp.Diff(&want, one); diff != "" {
		t.Errorf("Batch (-want +got):\n%s", diff)
	}
	for _, q := range []struct {
		tenant string
		number int64
	}{{"other", want.Number}, {"acme", want.Number + 1}} {
		if none, err := reports.Batch(ctx, q.tenant, q.number); none != nil || err != nil {
			t.Errorf("Batch(%v): %v, %v", q, none, err)
		}
	}
	if before, err := reports.Batches(ctx, "acme", want.Number, 10); len(before) != 0 || err != nil {
		t.Errorf("Batches before: %v, %v", before, err)
	}
	for _, q := range []struct {
		door   string
		offset int64
		want   int
	}{{"crm.com", 0, 1}, {"crm.com", 1, 0}, {"helloid", 0, 0}} {
		if got, err := reports.DoorBatches(ctx, "acme", q.door, q.offset, 10); len(got) != q.want || err != nil || q.want > 0 && got[0].Number != want.Number {
			t.Errorf("DoorBatches(%v): %v, %v", q, got, err)
		}
	}
	items := func(processed bool, after int32, limit int) []schemas.ItemReport {
		t.Helper()
		got, err := reports.BatchItems(ctx, "acme", schemas.KindCustomerEvents, key, processed, after, limit)
		must(t, err)
		return got
	}
	item := func(index int32, reasons []schemas.Reason) schemas.ItemReport {
		return schemas.ItemReport{Index: index, ID: schemas.ItemID("acme", key, index), Ref: new("r"), Reasons: reasons}
	}
	if diff := cmp.Diff([]schemas.ItemReport{item(0, nil), item(2, nil)}, items(true, -1, 10)); diff != "" {
		t.Errorf("processed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]schemas.ItemReport{item(2, nil)}, items(true, 0, 1)); diff != "" {
		t.Errorf("processed after 0 (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]schemas.ItemReport{item(1, reasons)}, items(false, -1, 10)); diff != "" {
		t.Errorf("unprocessed (-want +got):\n%s", diff)
	}

	// Ownership: the spelling sent last, nobody with a quantity of 0, another tenant unseen.
	day := time.Date(2021, 11, 5, 0, 0, 0, 0, time.UTC)
	own := func(tenant, user string, quantity, version int64) *kgo.Record {
		v := &schemas.OwnershipProcessed{OwnershipResult: schemas.OwnershipResult{
			Outcome: schemas.Outcome{Tenant: tenant, ID: schemas.NewBatchKey(), Attempt: 1, AcceptedAt: at, JudgedAt: at},
			UserKey: schemas.Fold(user), SKUKey: "app", UserName: user, ProductSKU: "App", TimeOfApproval: &day, Quantity: quantity, Version: version}, Item: schemas.Ownership{Clear: []string{}}}
		return &kgo.Record{Topic: "ownership.processed", Partition: int32(version % partitions), Value: r.encode("ownership.processed", v)}
	}
	r.produce(own("acme", "Ann", 1, 2), own("acme", "ann", 5, 1), own("acme", "Bob", 1, 3), own("acme", "bob", 0, 4), own("other", "Zoe", 1, 5), own("acme", "aaron", 2, 6))
	r.wait("6 Ann,Zoe,aaron", "SELECT concat(toString((SELECT count() FROM {db}.ownership)), ' ', (SELECT arrayStringConcat(arraySort(groupArray(user_name)), ',') FROM {db}.ownership_current))")
	owners, err := reports.Ownership(ctx, "acme", "app")
	must(t, err)
	if diff := cmp.Diff([]schemas.OwnershipReport{{UserName: "aaron", ProductSKU: "App", TimeOfApproval: &day, Quantity: 2}, {UserName: "Ann", ProductSKU: "App", TimeOfApproval: &day, Quantity: 1}}, owners); diff != "" {
		t.Errorf("Ownership (-want +got):\n%s", diff)
	}

	for sql, want := range map[string]string{
		"SELECT concat(status, ' ', toString(processed), ' ', toString(unprocessed), ' ', toString(pending)) FROM {db}.batch_status WHERE tenant = 'acme'":  "processing 2 1 1",
		"SELECT concat(status, ' ', toString(processed), ' ', toString(unprocessed), ' ', toString(pending)) FROM {db}.batch_status WHERE tenant = 'other'": "processing 0 0 1",
		"SELECT concat(toString(count()), ' ', toString(any(attempt))) FROM {db}.unprocessed_open":                                                          "1 2",
		"SELECT arrayStringConcat(arraySort(groupArray(concat(reason, toString(items)))), ' ') FROM {db}.unprocessed_by_reason":                             "missing1 not_found1",
		"SELECT toString(count()) FROM {db}.purchase_lines WHERE product_id IN ('P1', 'P2')":                                                                "4",
		"SELECT toString(sum(quantity)) FROM {db}.purchase_lines WHERE line = 2":                                                                            "2",
		"SELECT toString(groupUniqArray(tuple(kind, item_kind))) FROM {db}.outcomes WHERE kind != 'ownership'":                                              "[('customer_events','purchase')]",
		"SELECT toString(count()) FROM {db}.measures":                                                                                                       "0",
	} {
		if got := r.query(sql); got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
	// The last item: now it is complete.
	r.produce(good(3, 1))
	r.wait("complete 3 1 0", "SELECT concat(status, ' ', toString(processed), ' ', toString(unprocessed), ' ', toString(pending)) FROM {db}.batch_status WHERE tenant = 'acme'")
}
