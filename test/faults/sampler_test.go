package faults

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/test/harness"
	"github.com/counterfoil/counterfoil/test/stack"
)

// logTables are the tables that hold each committed record exactly once, at every moment.
var logTables = []string{"batches", "ownership", "customer_events", "referrals", "sales", "transactions", "references", "unprocessed"}

// sampler asks ClickHouse again and again, while everything breaks, whether a plain count of a table is right: no position is there twice, nothing
// is there that Kafka has not committed, and nothing that was there once is gone.
type sampler struct {
	conn driver.Conn
	adm  *kadm.Client
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex
	taken   int
	failed  int
	wrong   []string
	highest map[place]count
}

type place struct {
	table, topic string
	partition    int32
}

// count is what a table has of a partition.
type count struct {
	rows, positions uint64
	highest         int64
}

func newSampler(t testing.TB, p *harness.Parts) *sampler {
	t.Helper()
	conn, err := clickhouse.Open(p.CH.Options(t, p.Database))
	if err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(p.Kafka...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &sampler{conn: conn, adm: kadm.NewClient(client), stop: cancel, highest: map[place]count{}}
	s.done.Go(func() { s.run(ctx) })
	t.Cleanup(func() {
		cancel()
		s.done.Wait()
		client.Close()
		conn.Close()
	})
	return s
}

func (s *sampler) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := s.sample(call, logTables[n%len(logTables)])
		cancel()
		s.mu.Lock()
		if err == nil {
			s.taken++
		} else {
			s.failed++
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// sample asks one table. An error is one of ClickHouse or Kafka, which are broken at times.
func (s *sampler) sample(ctx context.Context, table string) error {
	// One query sees one state of the table.
	rows, err := s.conn.Query(ctx, "SELECT topic, partition, count(), uniqExact(epoch, offset), max(offset) FROM `"+table+"` GROUP BY topic, partition")
	if err != nil {
		return err
	}
	defer rows.Close()
	now := map[place]count{}
	var topics []string
	for rows.Next() {
		at, c := place{table: table}, count{}
		if err := rows.Scan(&at.topic, &at.partition, &c.rows, &c.positions, &c.highest); err != nil {
			return err
		}
		now[at] = c
		if !slices.Contains(topics, at.topic) {
			topics = append(topics, at.topic)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if len(topics) == 0 {
		return nil
	}
	ends, err := s.adm.ListCommittedOffsets(ctx, topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, c := range now {
		if c.rows != c.positions {
			s.note("%d rows of %s/%d in %s stood for %d positions", c.rows, at.topic, at.partition, table, c.positions)
		}
		if end, ok := ends.Lookup(at.topic, at.partition); ok && c.highest >= end.Offset {
			s.note("%s had offset %d of %s/%d, of which %d was the end of what was committed", table, c.highest, at.topic, at.partition, end.Offset)
		}
		if before := s.highest[at]; c.rows < before.rows || c.highest < before.highest {
			s.note("%s had %d rows of %s/%d up to %d, and then %d up to %d", table, before.rows, at.topic, at.partition, before.highest, c.rows, c.highest)
		}
		s.highest[at] = c
	}
	return nil
}

// note keeps what was wrong. The caller holds mu.
func (s *sampler) note(format string, args ...any) {
	if len(s.wrong) < 20 {
		s.wrong = append(s.wrong, "a plain count at "+time.Now().Format("15:04:05.000")+": "+fmt.Sprintf(format, args...))
	}
}

// found is what was wrong, or that nothing was looked at.
func (s *sampler) found() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken == 0 {
		return append(slices.Clone(s.wrong), fmt.Sprintf("a plain count: none of %d samples of ClickHouse was answered", s.failed))
	}
	return slices.Clone(s.wrong)
}

func (s *sampler) summary() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("%d samples of ClickHouse, %d without an answer", s.taken, s.failed)
}

// The sampler sees a row that is there twice, one that Kafka has not committed, and one that is gone.
func TestSamplerSees(t *testing.T) {
	harness.NeedClickHouse(t)
	ch, broker := stack.ClickHouse(t), stack.Fake(t)
	broker.CreateTopic(t, "batches", 1)
	for _, tt := range []struct{ name, sql, want string }{
		{"nothing amiss", "INSERT INTO batches VALUES ('batches', 0, 0, 2)", ""},
		{"a row twice", "INSERT INTO batches VALUES ('batches', 0, 0, 1)", "3 rows of batches/0 in batches stood for 2 positions"},
		{"a row of nothing", "INSERT INTO batches VALUES ('batches', 0, 0, 3)", "batches had offset 3 of batches/0, of which 3 was the end of what was committed"},
		{"a row gone", "ALTER TABLE batches DELETE WHERE offset = 0 SETTINGS mutations_sync = 1", "batches had 2 rows of batches/0 up to 1, and then 1 up to 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := clickhouse.Open(ch.Options(t, ch.Database(t)))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			client, err := kgo.NewClient(append(broker.Opts(), kgo.DefaultProduceTopic("batches"))...)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			ends, err := kadm.NewClient(client).ListCommittedOffsets(t.Context(), "batches")
			if err != nil {
				t.Fatal(err)
			}
			end, _ := ends.Lookup("batches", 0)
			for range 3 - end.Offset {
				if err := client.ProduceSync(t.Context(), kgo.StringRecord("")).FirstErr(); err != nil {
					t.Fatal(err)
				}
			}
			s := &sampler{conn: conn, adm: kadm.NewClient(client), highest: map[place]count{}}
			for _, sql := range []string{
				"CREATE TABLE batches (topic String, epoch Int32, partition Int32, offset Int64) ENGINE = MergeTree ORDER BY offset",
				"INSERT INTO batches VALUES ('batches', 0, 0, 0), ('batches', 0, 0, 1)", "", tt.sql, "",
			} {
				if sql == "" {
					err = s.sample(t.Context(), "batches")
				} else {
					err = conn.Exec(t.Context(), sql)
				}
				if err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
			}
			found := s.wrong
			if tt.want == "" && len(found) == 0 {
				return
			}
			if len(found) != 1 || tt.want == "" || !strings.HasSuffix(found[0], tt.want) {
				t.Errorf("found %q, want %q", found, tt.want)
			}
		})
	}
}
