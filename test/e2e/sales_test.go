package e2e

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
)

// A sale is matched to a call that was acknowledged before the sale was posted, whichever replica takes it, although the call has to reach
// ClickHouse first and a copy of the sink is killed on the way.
func TestSalesSeeCallsWrittenBefore(t *testing.T) {
	pairs := 400
	if harness.Soak() {
		pairs = 10_000
	}
	const tenant, batches = "causal", "/rest/v2_0/sales/batches"
	c := harness.StartCluster(t, harness.Supervised()) // the embedded ClickHouse can end when a client is killed
	key := c.CreateKey(tenant)
	clients := []*harness.Client{harness.NewClient(c.Ingest[0].URL, key), harness.NewClient(c.Ingest[1].URL, key)}
	for _, client := range clients { // each replica has to hear of the key
		harness.Eventually(t, time.Minute, func() string {
			if answer, err := client.Get(t.Context(), batches); err != nil || answer.Status != http.StatusOK {
				return fmt.Sprint(answer, err)
			}
			return ""
		})
	}
	calls := make([]*kgo.Record, pairs)
	for i := range calls {
		call := &schemas.Call{ID: fmt.Sprint("call-", i), StartedAt: time.Date(2023, 2, 28, 23, 59, 59, 999_000_000, time.UTC), Tags: []string{}}
		if i%2 == 0 {
			call.MHID = new(fmt.Sprint("MHID-", i))
		} else {
			call.CallerNumber = new(fmt.Sprintf("07%09d", i))
		}
		calls[i] = &kgo.Record{Topic: schemas.Calls, Partition: int32(i) % 4, Key: schemas.ReferenceKey(tenant, call.ID), Value: c.Encode(schemas.Calls, call),
			Headers: []kgo.RecordHeader{schemas.TenantHeader(tenant)}}
	}
	var next atomic.Int64
	var workers sync.WaitGroup
	began := time.Now()
	for range 16 {
		workers.Go(func() {
			for {
				i := int(next.Add(1) - 1)
				if i >= pairs || t.Context().Err() != nil {
					return
				}
				if i == pairs/3 {
					c.Sink[0].Kill()
				}
				if err := c.Client().ProduceSync(t.Context(), calls[i]).FirstErr(); err != nil {
					t.Errorf("write call %d: %v", i, err)
					return
				}
				sale := row{"id": fmt.Sprint("sale-", i), "date": "2023-02-28", "mhid": "", "clis": []string{}}
				if i%2 == 0 {
					sale["mhid"] = fmt.Sprint("MHID-", i)
				} else {
					sale["clis"] = []string{fmt.Sprintf("447%09d", i)}
				}
				answer, err := clients[i%2].Post(t.Context(), batches, row{"lookback": 1, "sales": []row{sale}})
				if err != nil || answer.Status != http.StatusOK {
					t.Errorf("sale %d: %v %+v", i, err, answer)
					return
				}
				time.Sleep(100 * time.Millisecond) // the sink is at work before and after it is killed
			}
		})
	}
	workers.Wait()
	sent := time.Since(began)
	c.Sink[0].Restart()
	w := proved(t, &c.Parts, nil)
	matched := 0
	for _, o := range w.Outcomes {
		if o.Sale != nil && o.Processed {
			matched++
		}
	}
	t.Logf("%d pairs sent in %s, all judged and written after %s, %d matched", pairs, sent.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), matched)
	query := fmt.Sprintf("SELECT count(), countIf(matched), countIf(replaceOne(sale_key, 'sale', 'call') = call_id), uniqExact(sale_key) FROM sales WHERE tenant = '%s' FORMAT CSV", tenant)
	if got, want := c.SQL(query), fmt.Sprintf("%d,%d,%d,%d", pairs, pairs, pairs, pairs); got != want {
		t.Errorf("sales, matched, matched to their own call, different: %s, want %s", got, want)
	}
}
