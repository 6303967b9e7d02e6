package ingest_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// BenchmarkPublish is ingest's own part of a call of 1,000 purchases: encode, commit in a transaction, without judging. The figure to
// look at is rows/s.
func BenchmarkPublish(b *testing.B) {
	for _, callers := range []int{1, 4} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			w := newWorld(b)
			s := w.start(b, map[string]string{"REPLY_WAIT": "1ns", "BACKLOG_LIMIT": "1h", "INGEST_BYTE_BUDGET": "8000000000"})
			items := purchases(1000)
			b.ReportAllocs()
			b.ResetTimer()
			begun := time.Now()
			var all sync.WaitGroup
			for c := range callers {
				all.Go(func() {
					for range (b.N + c) / callers {
						if _, err := s.Submit(b.Context(), &ingest.Batch{Tenant: "demo", KeyID: "abcdef", Door: ingest.DoorCRM, Operation: "purchases", Kind: schemas.KindCustomerEvents, ItemKind: schemas.EventPurchase, Items: items}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N*len(items))/time.Since(begun).Seconds(), "rows/s")
		})
	}
}

func purchases(n int) []ingest.Item {
	amount := schemas.Decimal{}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	text := func(format string, a ...any) *string { s := fmt.Sprintf(format, a...); return &s }
	var items []ingest.Item
	for i := range n {
		items = append(items, ingest.Item{Ref: text("ref %d", i), Value: &schemas.CustomerEvent{
			Kind:    schemas.EventPurchase,
			Account: &schemas.AccountIdentifier{Number: text("ACR%d", i)},
			EventCommon: schemas.EventCommon{
				Unit: &schemas.Identifier{Name: text("Main store")}, PerformedOn: &at, Description: text("a purchase"), UDFString1: text("udf"),
			},
			ReferenceNumber: text("R%d", i),
			Products: &[]schemas.PurchaseLine{{
				Product: &schemas.ProductIdentifier{Code: text("P1")}, Quantity: &amount, NetAmount: &amount, VATAmount: &amount, TotalAmount: &amount,
			}},
		}})
	}
	return items
}
