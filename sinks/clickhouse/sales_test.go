package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// saleOutcome is what the n-th sale's outcome begins with.
func saleOutcome(batch *string, n int) schemas.Outcome {
	at := time.UnixMilli(1_700_000_000_000 + int64(n)).UTC()
	id := schemas.ItemID("acme", "sales", int32(n))
	if batch != nil {
		id = schemas.ItemID("acme", *batch, int32(n))
	}
	return schemas.Outcome{Tenant: "acme", ID: id, Batch: batch, Index: int32(n), Attempt: 1, SourceTopic: "sales",
		SourcePartition: int32(n % partitions), SourceOffset: int64(n), AcceptedAt: at, JudgedAt: at}
}

func sale(id string) schemas.Sale {
	day := time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)
	return schemas.Sale{ID: &id, Description: new("d"), Date: &day, Value: new("100.10"), MHID: new("M"), CLIs: &[]string{"07911 123456", ""}, Lookback: new(int32(6)),
		Properties: []schemas.SaleProperty{{Key: new("1"), Value: new("north")}, {Key: new("2")}}}
}

func (r *rig) matched(o schemas.Outcome, key string, version int64) *kgo.Record {
	at := time.Date(2024, 2, 28, 10, 0, 0, 0, time.UTC)
	return &kgo.Record{Topic: "sales.processed", Partition: o.SourcePartition, Value: r.encode("sales.processed", &schemas.SaleProcessed{
		SaleResult: schemas.SaleResult{Outcome: o, SaleKey: key, Version: version, Rule: schemas.RuleCLI, CallID: "c1", CallStartedAt: at, CallCallerNumber: new("07911123456"),
			Campaign: new("spring")}, Item: sale(key)})}
}

// unmatched is the outcome of a sale without a match; without a key it is one that was refused for another reason.
func (r *rig) unmatched(o schemas.Outcome, key, code string, version int64) *kgo.Record {
	v := &schemas.Unprocessed{Outcome: o, Kind: schemas.KindSales, Reasons: []schemas.Reason{{Code: code, Message: "m"}}, Format: schemas.FormatJSON, Original: []byte("{}")}
	if key != "" {
		at := time.Date(2023, 2, 28, 10, 0, 0, 0, time.UTC)
		v.Sale = &schemas.UnmatchedSale{SaleKey: key, Version: version, Item: sale(key), Candidates: []schemas.Candidate{
			{CallID: "c1", StartedAt: at, Rule: schemas.RuleMHID, RuledOut: schemas.RuledOutBeforeWindow}, {CallID: "c2", StartedAt: at, Rule: schemas.RuleCLI, RuledOut: schemas.RuledOutAfterSale}}}
	}
	return &kgo.Record{Topic: "sales.unprocessed", Partition: o.SourcePartition, Value: r.encode("sales.unprocessed", v)}
}

// A table of two topics, one of which has records that are none of its own: whoever takes over finds out what is there of each topic, also
// where a table beside it had taken less.
func TestSalesComeByTwoTopics(t *testing.T) {
	r := newRig(t)
	sales := func(from, to int) (all []*kgo.Record) {
		for n := from; n < to; n++ {
			o, key := saleOutcome(nil, n), fmt.Sprint("s", n)
			switch n % 3 {
			case 0:
				all = append(all, r.matched(o, key, int64(n)))
			case 1:
				all = append(all, r.unmatched(o, key, "no_match", int64(n)))
			default:
				all = append(all, r.unmatched(o, "", schemas.CodeInvalid, 0))
			}
		}
		return all
	}
	exact := func(n int) {
		t.Helper()
		want := fmt.Sprintf("%d %[1]d %d %[2]d %[1]d", n/3, n/3*2)
		r.wait(want, "SELECT concat(toString((SELECT countIf(matched) FROM {db}.sales)), ' ', toString((SELECT countIf(NOT matched) FROM {db}.sales)), ' ', "+
			"toString((SELECT count() FROM {db}.unprocessed)), ' ', toString((SELECT uniqExact(id) FROM {db}.unprocessed)), ' ', "+
			"toString((SELECT intDiv(uniqExact(id), 2) FROM {db}.sales)))")
	}
	var dead atomic.Bool
	deadly := func(s *Sink) {
		s.hook = func(_ context.Context, at, _ string) error {
			if dead.Load() && (at == "before commit" || at == "before release") {
				return errors.New("no commit any more")
			}
			return nil
		}
	}
	a := r.start(deadly)
	r.produce(sales(0, 150)...)
	exact(150)
	// Rows get in, and the member ends before it commits them; of the table unprocessed none get in.
	must(t, r.conn.any.Exec(t.Context(), "ALTER TABLE "+r.conn.table("unprocessed")+" ADD CONSTRAINT closed CHECK tenant = ''"))
	dead.Store(true)
	r.produce(sales(150, 300)...)
	r.wait("200 100", "SELECT concat(toString((SELECT count() FROM {db}.sales)), ' ', toString((SELECT count() FROM {db}.unprocessed)))")
	must(t, a.stop())
	must(t, r.conn.any.Exec(t.Context(), "ALTER TABLE "+r.conn.table("unprocessed")+" DROP CONSTRAINT closed"))
	b := r.start(nil)
	exact(300)
	// And from the start: everything is passed over.
	must(t, b.stop())
	r.rewind()
	r.start(nil)
	r.produce(sales(300, 330)...)
	exact(330)
	r.committed("sales.unprocessed")
	r.committed("sales.processed")
	exact(330)
}

func TestSalesHoldWhatTheOutcomeSaid(t *testing.T) {
	r := newRig(t)
	r.start(nil)
	batch := schemas.NewBatchKey()
	r.produce(&kgo.Record{Topic: schemas.Batches, Value: r.encode(schemas.Batches, &schemas.BatchHeader{Tenant: "acme", Key: batch, Kind: schemas.KindSales, Door: "mediahawk",
		KeyID: "k", Items: 4, AcceptedAt: time.UnixMilli(1_700_000_000_000), Lookback: new(int32(6))})},
		r.matched(saleOutcome(&batch, 0), "A", 1),
		r.unmatched(saleOutcome(&batch, 1), "B", "no_match", 1),
		r.unmatched(saleOutcome(&batch, 2), "", schemas.CodeInternalError, 0),
		r.unmatched(saleOutcome(&batch, 3), "A", "no_match", 2))
	r.wait("3 3", "SELECT concat(toString((SELECT count() FROM {db}.sales)), ' ', toString((SELECT count() FROM {db}.unprocessed)))")
	for expr, want := range map[string]string{
		"SELECT arraySort(groupArray(tuple(sale_key, version, matched))) FROM {db}.sales":                                                                                              "[('A',1,true),('A',2,false),('B',1,false)]",
		"SELECT arraySort(groupArray(tuple(sale_key, version, matched))) FROM {db}.sales_current":                                                                                      "[('A',2,false),('B',1,false)]",
		"SELECT tuple(rule, call_id, call_started_at, call_mhid, call_caller_number, campaign, keyword, candidate_call_id) FROM {db}.sales WHERE matched":                              "('cli','c1','2024-02-28 10:00:00.000',NULL,'07911123456','spring',NULL,[])",
		"SELECT tuple(rule, call_id, call_started_at, candidate_call_id, toString(candidate_started_at[1]), candidate_rule, candidate_ruled_out) FROM {db}.sales WHERE sale_key = 'B'": "(NULL,NULL,NULL,['c1','c2'],'2023-02-28 10:00:00.000',['mhid','cli'],['before_window','after_sale'])",
		"SELECT tuple(sale_id, description, date, value, mhid, clis, lookback, property_key, property_value) FROM {db}.sales WHERE sale_key = 'B'":                                     "('B','d','2024-02-29','100.10','M',['07911 123456',''],6,['1','2'],['north',NULL])",
		"SELECT uniqExact(tuple(sale_id IS NULL, description, date, value, mhid, clis, lookback, property_key, property_value)) FROM {db}.sales":                                       "1",
		"SELECT tuple(status, lookback, processed, unprocessed, pending) FROM {db}.batch_status":                                                                                       "('complete',6,1,3,0)",
		"SELECT arraySort(groupArray(tuple(`index`, processed, internal_error))) FROM {db}.outcomes":                                                                                   "[(0,1,0),(1,0,0),(2,0,1),(3,0,0)]",
	} {
		if got := r.query(expr); got != want {
			t.Errorf("%s:\n got %s\nwant %s", expr, got, want)
		}
	}
	reports := r.conn.Reports()
	for processed, want := range map[bool][]int32{true: {0}, false: {1, 2, 3}} {
		items, err := reports.BatchItems(t.Context(), "acme", schemas.KindSales, batch, processed, -1, 10)
		must(t, err)
		var got []int32
		for _, i := range items {
			got = append(got, i.Index)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("processed %v (-want +got):\n%s", processed, diff)
		}
	}
}

// A batch has failed when the first attempt at each of its items ended in an error of ours, whatever became of them later; before all have an
// outcome it is in the works.
func TestFailedBatches(t *testing.T) {
	r := newRig(t)
	r.start(nil)
	at := time.UnixMilli(1_700_000_000_000).UTC()
	keys := map[string]string{}
	var records []*kgo.Record
	add := func(name string, items int32, outcomes ...*kgo.Record) {
		records = append(records, &kgo.Record{Topic: schemas.Batches, Value: r.encode(schemas.Batches, &schemas.BatchHeader{Tenant: "acme", Key: keys[name],
			Kind: schemas.KindSales, Door: "mediahawk", KeyID: name, Items: items, AcceptedAt: at})})
		records = append(records, outcomes...)
	}
	key := func(name string) *string {
		k := schemas.NewBatchKey()
		keys[name] = k
		return &k
	}
	attempt := func(o schemas.Outcome, n int32) schemas.Outcome {
		o.Attempt = n
		return o
	}
	k := key("failed")
	add("failed", 2, r.unmatched(saleOutcome(k, 0), "", schemas.CodeInternalError, 0), r.unmatched(saleOutcome(k, 1), "", schemas.CodeInternalError, 0))
	k = key("failed, then replayed")
	add("failed, then replayed", 2, r.unmatched(saleOutcome(k, 0), "", schemas.CodeInternalError, 0), r.unmatched(saleOutcome(k, 1), "", schemas.CodeInternalError, 0),
		r.matched(attempt(saleOutcome(k, 0), 2), "R0", 1), r.matched(attempt(saleOutcome(k, 1), 2), "R1", 1))
	k = key("failed in part")
	add("failed in part", 2, r.unmatched(saleOutcome(k, 0), "", schemas.CodeInternalError, 0), r.unmatched(saleOutcome(k, 1), "P", "no_match", 1))
	k = key("complete, then failing")
	add("complete, then failing", 1, r.unmatched(saleOutcome(k, 0), "", schemas.CodeInvalid, 0), r.unmatched(attempt(saleOutcome(k, 0), 2), "", schemas.CodeInternalError, 0))
	k = key("failing, not at its end")
	add("failing, not at its end", 2, r.unmatched(saleOutcome(k, 0), "", schemas.CodeInternalError, 0))
	k = key("second attempt first")
	add("second attempt first", 1, r.matched(attempt(saleOutcome(k, 0), 2), "S", 1))
	key("nothing")
	add("nothing", 0)
	r.produce(records...)
	want := map[string]string{"failed": "failed 0 2", "failed, then replayed": "failed 2 0", "failed in part": "complete 0 2", "complete, then failing": "complete 0 1",
		"failing, not at its end": "processing 0 1", "second attempt first": "processing 0 0", "nothing": "complete 0 0"}
	r.wait(fmt.Sprint(len(want)), "SELECT count() FROM {db}.batches")
	r.committed("sales.unprocessed")
	r.committed("sales.processed")
	got, view := map[string]string{}, map[string]string{}
	batches, err := r.conn.Reports().Batches(t.Context(), "acme", 0, 100)
	must(t, err)
	for _, b := range batches {
		for name, k := range keys {
			if k == b.Key {
				got[name] = fmt.Sprintf("%s %d %d", b.Status(), b.Processed, b.Unprocessed)
				view[name] = r.query("SELECT concat(status, ' ', toString(processed), ' ', toString(unprocessed)) FROM {db}.batch_status WHERE batch = '" + k + "'")
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Batches (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, view); diff != "" {
		t.Errorf("batch_status (-want +got):\n%s", diff)
	}
}
