package bench

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
)

// BenchmarkSales measures sales of which nine in ten match one of BENCH_CALLS calls, half of these by MHID and half by number, until
// the last is visible in ClickHouse: bare records on Kafka, and Mediahawk's batches of 1,000, from callers that do not wait for outcomes and come
// back where they are told to.
func BenchmarkSales(b *testing.B) {
	up := startUp(b)
	putCalls(b, &up.Parts, calls())
	sold := 0
	b.Run("kafka", func(b *testing.B) {
		for range b.N {
			records := saleRecords(&up.Parts, sold, items())
			before := usageOf(up)
			took := load(b, up.Process, &up.Parts, records, "sales", len(records))
			rate(b, len(records), took, "sales")
			usageOf(up).report(b, before, len(records), "sale")
			sold += len(records)
		}
	})
	client := newClient(b, up)
	for _, callers := range []int{2, 4} {
		b.Run(fmt.Sprintf("mediahawk/callers=%d", callers), func(b *testing.B) {
			const rows = 1000
			n := max(items()/rows/2, callers)
			for range b.N {
				bodies := make([][]byte, n)
				for i := range bodies {
					bodies[i] = mediahawkCall(sold+i*rows, rows)
				}
				have, before := count(b, &up.Parts, "sales"), usageOf(up)
				start := time.Now()
				parallel(b, callers, n, func(i int) error {
					for {
						answer, err := client.Post(b.Context(), "/rest/v2_0/sales/batches", bodies[i-1])
						if err == nil && answer.Status == http.StatusServiceUnavailable {
							time.Sleep(50 * time.Millisecond)
							continue
						}
						return expect(answer, err, http.StatusOK)
					}
				})
				waitRows(b, &up.Parts, "sales", have, n*rows, start)
				rate(b, n*rows, time.Since(start), "sales")
				usageOf(up).report(b, before, n*rows, "sale")
				sold += n * rows
			}
		})
	}
	if got, want := count(b, &up.Parts, "unprocessed"), unmatched(sold); got != want {
		b.Fatalf("%d sales are unmatched, not %d", got, want)
	}
}

// BenchmarkAvon measures financial transactions: a lone call of one, and calls of 1,000 in every format, each answered when all of its
// transactions were judged.
func BenchmarkAvon(b *testing.B) {
	up := startUp(b)
	client := newClient(b, up)
	b.Run("latency", func(b *testing.B) {
		f := avonFormats[0]
		latency(b, func(i int) error {
			answer, err := client.PostAs(b.Context(), avonPath, f.mediaType, f.body(i, 1))
			return expect(answer, err, http.StatusOK)
		})
	})
	const rows, callers = 1000, 4
	for _, f := range avonFormats {
		b.Run(f.name, func(b *testing.B) {
			bodies := make([][]byte, 20)
			for i := range bodies {
				bodies[i] = f.body(i*rows, rows)
			}
			n := max(items()/rows/4, callers)
			for range b.N {
				before, start := usageOf(up), time.Now()
				parallel(b, callers, n, func(i int) error {
					answer, err := client.PostAs(b.Context(), avonPath, f.mediaType, bodies[i%len(bodies)])
					return expect(answer, err, http.StatusOK)
				})
				rate(b, n*rows, time.Since(start), "rows")
				usageOf(up).report(b, before, n*rows, "row")
			}
		})
	}
	if refused := count(b, &up.Parts, "unprocessed"); refused > 0 {
		b.Fatalf("%d transactions were not processed", refused)
	}
}

// BenchmarkV1 measures our own API: calls of 1,000 customer events, web events and purchases in turn, each answered when all were judged.
func BenchmarkV1(b *testing.B) {
	up := startUp(b)
	client := newClient(b, up)
	const rows, callers = 1000, 4
	for _, f := range v1Formats {
		b.Run(f.name, func(b *testing.B) {
			bodies := make([][]byte, 20)
			for i := range bodies {
				bodies[i] = f.body(i*rows, rows)
			}
			n := max(items()/rows/4, callers)
			for range b.N {
				before, start := usageOf(up), time.Now()
				parallel(b, callers, n, func(i int) error {
					answer, err := client.PostAs(b.Context(), "/v1/customer-events", f.mediaType, bodies[i%len(bodies)])
					if err := expect(answer, err, http.StatusOK); err != nil {
						return err
					}
					// Reading the answer whole would take as long as making it.
					if got := bytes.Count(answer.Body, []byte(`"outcome":"processed"`)); got != rows {
						return fmt.Errorf("%d of %d rows were processed: %.500s", got, rows, answer.Body)
					}
					return nil
				})
				rate(b, n*rows, time.Since(start), "rows")
				usageOf(up).report(b, before, n*rows, "row")
			}
		})
	}
}

// BenchmarkReport measures Caliq's buying report over HTTP: of a customer with 10,000 order and as many invoice lines, among BENCH_LINES of
// each.
func BenchmarkReport(b *testing.B) {
	up := startUp(b)
	putLines(b, &up.Parts, lines())
	client := newClient(b, up)
	for _, based := range []string{schemas.BasedOnOrders, schemas.BasedOnInvoices} {
		body := fmt.Appendf(nil, `{"apiKey":%q,"CustomerID":%d,"AccountNo":"","BasedOn":%q,"MonthsBack":12,"WeeksUntilAvailable":4}`, client.Key.String(), buyer, based)
		b.Run("based_on="+based, func(b *testing.B) {
			before := usageOf(up)
			defer func() { usageOf(up).report(b, before, b.N*latencyCalls, "call") }()
			latency(b, func(int) error {
				answer, err := client.Post(b.Context(), "/api/v1/CustomerBuyingReport", body)
				if err := expect(answer, err, http.StatusOK); err != nil {
					return err
				}
				if got := bytes.Count(answer.Body, []byte(`"Code":`)); got < products/2 {
					return fmt.Errorf("the report has %d products: %.500s", got, answer.Body)
				}
				return nil
			})
		})
	}
}

// newClient is a client of `up` whose key opens all doors.
func newClient(b *testing.B, up *harness.Up) *harness.Client {
	b.Helper()
	client := harness.NewClient(up.URL, up.CreateKey(tenant))
	client.HTTP.Timeout = time.Minute
	client.LogIn(b) // when a new key opens, it opens everything
	return client
}

func expect(answer *harness.Answer, err error, status int) error {
	if err == nil && answer.Status != status {
		err = fmt.Errorf("HTTP %d: %.500s", answer.Status, answer.Body)
	}
	return err
}
