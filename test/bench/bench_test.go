package bench

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/test/harness"
)

// BenchmarkKafka measures bare records on the item topics, until the last of their outcomes is visible in ClickHouse.
func BenchmarkKafka(b *testing.B) {
	up := startUp(b)
	b.Run("customer_events", func(b *testing.B) {
		records := eventRecords(&up.Parts, items())
		for range b.N {
			before := usageOf(up)
			took := load(b, up.Process, &up.Parts, records, "customer_events", len(records))
			rate(b, len(records), took, "items")
			usageOf(up).report(b, before, len(records), "item")
		}
	})
	b.Run("ownership", func(b *testing.B) {
		records := ownershipRecords(&up.Parts, items())
		for range b.N {
			before := usageOf(up)
			took := load(b, up.Process, &up.Parts, records, "ownership", len(records))
			rate(b, len(records), took, "items")
			usageOf(up).report(b, before, len(records), "item")
		}
	})
	if refused := count(b, &up.Parts, "unprocessed") + count(b, &up.Parts, "dead_letters"); refused > 0 {
		b.Fatalf("%d items of the load were not processed", refused)
	}
}

// BenchmarkSink measures one copy of the sink: outcomes of customer events (some 110 columns), and the table batches, into which nine plain
// fields of each record go.
func BenchmarkSink(b *testing.B) {
	// What the harness shortens for tests of faults has its default here.
	cluster := harness.StartCluster(b, harness.Copies(0, 0, 1), harness.Env("SINK_SESSION_TIMEOUT=10s", "SINK_LEASE=10s", "SINK_FLUSH_INTERVAL=1s"))
	sink := cluster.Sink[0]
	used := func() usage { return usage{"sink": cpuTime(sink.PID()), "clickhouse": cpuTime(ownChild())} }
	b.Run("customer_events", func(b *testing.B) {
		records := outcomeRecords(&cluster.Parts, items())
		for range b.N {
			before := used()
			took := load(b, sink.Process, &cluster.Parts, records, "customer_events", len(records))
			rate(b, len(records), took, "rows")
			used().report(b, before, len(records), "row")
		}
	})
	b.Run("nine_columns", func(b *testing.B) {
		records := headerRecords(&cluster.Parts, 4*items())
		for range b.N {
			before := used()
			took := load(b, sink.Process, &cluster.Parts, records, "batches", len(records))
			rate(b, len(records), took, "rows")
			used().report(b, before, len(records), "row")
		}
	})
}

// BenchmarkHTTP measures the doors of `counterfoil up` from a client on the same machine.
func BenchmarkHTTP(b *testing.B) {
	up := startUp(b)
	client := harness.NewClient(up.URL, up.CreateKey(tenant))
	client.LogIn(b)
	client.HTTP.Timeout = time.Minute
	crm := func(kind string, body []byte, rows int) error {
		answer, err := client.Post(b.Context(), "/crmapi/rest/v2/customer_events/bulk/"+kind+"/create", body)
		if err != nil {
			return err
		}
		// Reading the answer whole would take as long as making it.
		if answer.Status != 200 || bytes.Count(answer.Body, []byte(`"number":`)) != rows {
			return fmt.Errorf("HTTP %d, not %d processed rows: %.500s", answer.Status, rows, answer.Body)
		}
		return nil
	}
	helloID := func(i int) error {
		answer, err := client.HelloID(b.Context(), fmt.Appendf(nil, `[{"UserName":"User%d","ProductSKU":"APP-01","HasProduct":true}]`, i))
		if err == nil && answer.Status != 200 {
			err = fmt.Errorf("HTTP %d: %s", answer.Status, answer.Body)
		}
		return err
	}

	b.Run("idle", func(b *testing.B) {
		for range b.N {
			time.Sleep(3 * time.Second)
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(resident(up.PID()), "rss-MB")
	})
	b.Run("latency/crm", func(b *testing.B) {
		body := crmCall(client.Token(), "web", 0, 1)
		latency(b, func(int) error { return crm("web", body, 1) })
	})
	b.Run("latency/helloid", func(b *testing.B) { latency(b, helloID) })
	for _, kind := range []string{"web", "purchases"} {
		for _, callers := range []int{2, 4, 8} {
			b.Run(fmt.Sprintf("%s/callers=%d", kind, callers), func(b *testing.B) {
				const rows = 1000
				bodies := make([][]byte, 20)
				for i := range bodies {
					bodies[i] = crmCall(client.Token(), kind, i*rows, rows)
				}
				calls := max(items()/rows/4, callers)
				for range b.N {
					before, most := usageOf(up), watchResident(up.PID())
					start := time.Now()
					parallel(b, callers, calls, func(i int) error { return crm(kind, bodies[i%len(bodies)], rows) })
					rate(b, calls*rows, time.Since(start), "rows")
					usageOf(up).report(b, before, calls*rows, "row")
					b.ReportMetric(most(), "rss-MB")
				}
			})
		}
	}
}

// latencyCalls is how many calls a latency is made of.
const latencyCalls = 500

// latency makes calls one after another and reports the median and the 99th percentile of their times.
func latency(b *testing.B, call func(i int) error) {
	for range b.N {
		took := make([]time.Duration, latencyCalls)
		for i := range took {
			start := time.Now()
			if err := call(i); err != nil {
				b.Fatal(err)
			}
			took[i] = time.Since(start)
			time.Sleep(2 * time.Millisecond)
		}
		slices.Sort(took)
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(milliseconds(took[latencyCalls/2]), "p50-ms")
		b.ReportMetric(milliseconds(took[latencyCalls*99/100]), "p99-ms")
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// parallel makes calls from several callers at once.
func parallel(b *testing.B, callers, calls int, call func(i int) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= calls && !b.Failed(); i = int(next.Add(1)) {
				if err := call(i); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

// rate reports n things in a time; the time of an operation would say nothing.
func rate(b *testing.B, n int, took time.Duration, unit string) {
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(n)/took.Seconds(), unit+"/s")
}
