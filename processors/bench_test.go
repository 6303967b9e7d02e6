package processors

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/schemas"
)

// BenchmarkEngine measures one copy from items on Kafka to committed outcomes; an operation is an item. The broker (kfake unless
// TEST_KAFKA says otherwise) runs on the same machine.
func BenchmarkEngine(b *testing.B) {
	b.Run("ownership", func(b *testing.B) {
		benchmark(b, Upserts, schemas.KindOwnership, func(w *world, i int) *kgo.Record {
			item, value := w.grant(fmt.Sprint("user-", i%50_000), "sku-1")
			return &kgo.Record{Partition: schemas.Partition(upserts.Key(tenant, &item), partitions), Value: value}
		})
	})
	b.Run("web events", func(b *testing.B) {
		benchmark(b, Validation, schemas.KindCustomerEvents, func(w *world, i int) *kgo.Record {
			return &kgo.Record{Partition: int32(i/1000) % partitions, Value: w.event(fmt.Sprint("A-", i%1000))}
		})
	})
	b.Run("purchases", func(b *testing.B) {
		benchmark(b, Validation, schemas.KindCustomerEvents, func(w *world, i int) *kgo.Record {
			return &kgo.Record{Partition: int32(i/1000) % partitions, Value: w.purchase(fmt.Sprint("A-", i%1000))}
		})
	})
	b.Run("sales", func(b *testing.B) { // without what ClickHouse takes to find the calls
		benchmark(b, Matching, schemas.KindSales, func(w *world, i int) *kgo.Record {
			mhid := fmt.Sprint("M-", i%1000)
			if i < 1000 {
				w.calls.insert(&schemas.Call{ID: mhid, MHID: &mhid, StartedAt: saleDay})
			}
			return w.sale(new(fmt.Sprint("S-", i)), mhid)
		})
	})
	b.Run("transactions", func(b *testing.B) {
		benchmark(b, Validation, schemas.KindTransactions, func(w *world, i int) *kgo.Record {
			amount := decimal.New(int64(i), -2)
			it := &schemas.Transaction{TransactionID: new(fmt.Sprint("T-", i)), TransactionAmount: &amount, RetailSalesAmount: &amount, State: new("NY")}
			return &kgo.Record{Partition: int32(i/1000) % partitions, Value: w.encode(schemas.KindTransactions, it)}
		})
	})
}

func benchmark(b *testing.B, processor, kind string, item func(w *world, i int) *kgo.Record) {
	w := newWorld(b)
	w.reference(schemas.Units, &schemas.Unit{ID: "00000000000000000000000000000001", Name: "Unit"})
	w.reference(schemas.Products, &schemas.Product{ID: "00000000000000000000000000000002", Code: "P-1", Barcodes: []string{}})
	var accounts []*kgo.Record
	for i := range 1000 {
		a := &schemas.Account{ID: fmt.Sprintf("%032X", i), Number: fmt.Sprint("A-", i)}
		accounts = append(accounts, &kgo.Record{Topic: schemas.Accounts, Key: schemas.ReferenceKey(tenant, a.ID), Headers: []kgo.RecordHeader{schemas.TenantHeader(tenant)}, Value: w.encode(schemas.Accounts, a)})
	}
	w.produce(accounts...)
	w.sinkCommits(map[int32]int64{0: 0}) // there are no calls on Kafka
	var recs []*kgo.Record
	batch := schemas.NewBatchKey()
	for i := range b.N {
		rec := item(w, i)
		rec.Topic, rec.Headers = kind, envelope(schemas.Envelope{Batch: batch, Index: int32(i), Reply: rec.Partition})
		if recs = append(recs, rec); len(recs) == 20_000 || i == b.N-1 {
			w.produce(recs...)
			recs = recs[:0]
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	c := w.start(processor, nil)
	for c.sum() < b.N {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "items/s")
}

// sum counts committed outcomes.
func (c *copyOf) sum() int {
	n := 0.0
	for _, k := range c.kinds {
		n += counted(c.metrics.processed.WithLabelValues(k.name)) + counted(c.metrics.unprocessed.WithLabelValues(k.name))
	}
	return int(n)
}

// purchase has one line.
func (w *world) purchase(account string) []byte {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return w.encode(schemas.KindCustomerEvents, &schemas.CustomerEvent{
		Kind: schemas.EventPurchase, Account: &schemas.AccountIdentifier{Number: &account}, ReferenceNumber: new("R-1"),
		EventCommon: schemas.EventCommon{Unit: &schemas.Identifier{Name: new("Unit")}, PerformedOn: &now},
		Products: &[]schemas.PurchaseLine{{
			Product:   &schemas.ProductIdentifier{Code: new("P-1")},
			NetAmount: new(decimal.New(1000, -2)), VATAmount: new(decimal.New(200, -2)), TotalAmount: new(decimal.New(1200, -2)),
		}},
	})
}

// BenchmarkIdle measures a lone item from its produce to its committed outcome, as a caller sees it.
func BenchmarkIdle(b *testing.B) {
	w := newWorld(b)
	w.reference(schemas.Units, &schemas.Unit{ID: "00000000000000000000000000000001", Name: "Unit"})
	w.reference(schemas.Accounts, &schemas.Account{ID: fmt.Sprintf("%032X", 1), Number: "A-1"})
	w.start(Validation, nil).ready()
	reader := w.newClient(kgo.ConsumeTopics(schemas.ProcessedTopic(schemas.KindCustomerEvents)), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	value := w.event("A-1")
	var took []time.Duration
	b.ResetTimer()
	for i := range b.N {
		begun := time.Now()
		w.produce(&kgo.Record{Topic: schemas.KindCustomerEvents, Partition: int32(i) % partitions, Value: value, Headers: bare()})
		for reader.PollFetches(b.Context()).NumRecords() == 0 {
		}
		took = append(took, time.Since(begun))
		time.Sleep(5 * time.Millisecond)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
