package clickhouse

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// BenchmarkSink measures Avro on Kafka → ClickHouse: rows/s from the start of the sink to the last row in the table. BENCH_ROWS sets how
// many rows (default 1,000,000). The table
// batches has nine columns from Avro and six of position; ownership has 26, and its topic feeds ownership_state as well.
func BenchmarkSink(b *testing.B) {
	rows := 1_000_000
	if text := os.Getenv("BENCH_ROWS"); text != "" {
		n, err := strconv.Atoi(text)
		must(b, err)
		rows = n
	}
	b.Run("ownership", func(b *testing.B) {
		benchSink(b, rows, "ownership.processed", "ownership", func(r *rig, n int) []byte { return r.ownership(n).Value })
	})
	b.Run("batches", func(b *testing.B) {
		at := time.UnixMilli(1_700_000_000_000).UTC()
		benchSink(b, rows, schemas.Batches, "batches", func(r *rig, n int) []byte {
			return r.encode(schemas.Batches, &schemas.BatchHeader{Tenant: "acme", Key: schemas.ItemID("acme", "", int32(n)), Kind: "customer_events", ItemKind: new("purchase"),
				Door: "crm.com", KeyID: "aB3dE6", Items: 1000, ReplyPartition: int32(n % 12), AcceptedAt: at.Add(time.Duration(n) * time.Millisecond)})
		})
	})
	b.Run("unprocessed", func(b *testing.B) {
		at := time.UnixMilli(1_700_000_000_000).UTC()
		benchSink(b, rows/4, "customer_events.unprocessed", "unprocessed", func(r *rig, n int) []byte {
			return r.encode("customer_events.unprocessed", &schemas.Unprocessed{Outcome: schemas.Outcome{Tenant: "acme", ID: schemas.ItemID("acme", "x", int32(n)), Index: int32(n), Attempt: 1, AcceptedAt: at, JudgedAt: at},
				Kind: "customer_events", Format: "avro", Original: []byte("0123456789012345678901234567890123456789"), Reasons: []schemas.Reason{{Code: "not_found", Field: "account", Message: "Account not found."}}})
		})
	})
}

func benchCall(n int) *schemas.Call {
	return &schemas.Call{ID: fmt.Sprint("c", n), StartedAt: time.UnixMilli(1_700_000_000_000 + int64(n)), CallerNumber: new(fmt.Sprintf("+44 7700 9%05d", n%100_000)), MHID: new(fmt.Sprint("M", n)),
		Campaign: new("Spring"), Source: new("google"), Medium: new("cpc"), Keyword: new("boiler repair"), Tags: []string{"a"}, PageURI: new("https://example.com/boilers")}
}

// benchSink measures one topic. The records of 10,000 distinct values are produced before.
func benchSink(b *testing.B, rows int, topic, table string, value func(r *rig, n int) []byte) {
	r := newRig(b)
	values := make([][]byte, 10_000)
	for n := range values {
		values[n] = value(r, n)
	}
	t, _ := schemas.TopicNamed(topic)
	spread := int32(partitions)
	if t.Partitions != 0 {
		spread = int32(t.Partitions)
	}
	for n := range rows {
		r.client.Produce(b.Context(), &kgo.Record{Topic: topic, Partition: int32(n) % spread, Value: values[n%len(values)]}, func(_ *kgo.Record, err error) {
			if err != nil {
				b.Error(err)
			}
		})
	}
	must(b, r.client.Flush(b.Context()))
	count := "SELECT count() FROM {db}." + table
	for b.Loop() {
		r.rewind()
		must(b, r.conn.any.Exec(b.Context(), "TRUNCATE TABLE "+r.conn.table(table)))
		start := time.Now()
		s := r.start(func(s *Sink) {
			s.cfg.FlushRows, s.cfg.FlushInterval, s.cfg.Lease, s.cfg.Session = 100_000, time.Second, 10*time.Second, 10*time.Second
		})
		r.waitLong(5*time.Minute, strconv.Itoa(rows), count)
		took := time.Since(start)
		b.ReportMetric(float64(rows)/took.Seconds(), "rows/s")
		must(b, s.stop())
	}
}

// BenchmarkSinkCalls measures calls from Kafka to where FindCalls finds them: each is read back by its id and moved. BENCH_ROWS sets how many
// (default 200,000), all of ids of their own; a second pass sends them again.
func BenchmarkSinkCalls(b *testing.B) {
	rows := 200_000
	if text := os.Getenv("BENCH_ROWS"); text != "" {
		n, err := strconv.Atoi(text)
		must(b, err)
		rows = n
	}
	for b.Loop() {
		r := newRig(b)
		s := r.start(func(s *Sink) {
			s.cfg.FlushRows, s.cfg.FlushInterval, s.cfg.Lease, s.cfg.Session = 100_000, time.Second, 10*time.Second, 10*time.Second
		})
		for _, pass := range []string{"new-rows/s", "again-rows/s"} {
			records := make([]*kgo.Record, rows)
			for n := range records {
				c := benchCall(n)
				records[n] = r.fact(schemas.Calls, int32(n%partitions), time.Now(), c.ID, c)
			}
			start := time.Now()
			r.produce(records...)
			r.committed(schemas.Calls)
			b.ReportMetric(float64(rows)/time.Since(start).Seconds(), pass)
		}
		must(b, s.stop())
	}
}

// BenchmarkFill measures the decoder and the column filler alone.
func BenchmarkFill(b *testing.B) {
	cfg := sinkConfig()
	for _, c := range []struct {
		spec  *tableSpec
		value any
	}{
		{batchesTable, &schemas.BatchHeader{Tenant: "acme", Key: schemas.NewBatchKey(), Kind: "customer_events", ItemKind: new("purchase"), Door: "crm.com", KeyID: "aB3dE6", Items: 10, AcceptedAt: time.Now()}},
		{customerEventsTable, fullEvent(rand.New(rand.NewPCG(1, 2)))},
		{factTables[schemas.Calls][0], benchCall(1)},
	} {
		b.Run(c.spec.name, func(b *testing.B) {
			data, err := c.spec.sources[0].schema.Avro().AppendEncode(binary.BigEndian.AppendUint32([]byte{0}, 1), c.value)
			must(b, err)
			f, err := newFill(c.spec, &cfg, fixedWriter{c.spec.sources[0].schema.Avro()})
			must(b, err)
			rec, p := &kgo.Record{Key: []byte("acme/c1"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: data}, &part{}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.add(rec, p); err != nil {
					b.Fatal(err)
				}
				if f.rows() == 10_000 {
					f.reset()
				}
			}
		})
	}
}
