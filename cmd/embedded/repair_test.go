package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/cmd/embedded"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// producer is a transactional producer of partition 0 of the topic `log`.
func producer(t *testing.T, s *embedded.Stack, id string) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.KafkaAddr()), kgo.DefaultProduceTopic("log"),
		kgo.TransactionalID(id), kgo.TransactionTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// produce writes the values in a transaction and leaves that open.
func produce(t *testing.T, client *kgo.Client, values ...string) {
	t.Helper()
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for _, v := range values {
		if err := client.ProduceSync(t.Context(), kgo.StringRecord(v)).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

func commit(t *testing.T, client *kgo.Client) {
	t.Helper()
	if err := client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
}

func createTopic(t *testing.T, s *embedded.Stack, partitions int32, topics ...string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.KafkaAddr()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).CreateTopics(t.Context(), partitions, 1, nil, topics...); err != nil {
		t.Fatal(err)
	}
}

// torn copies the data folder of a running broker: that is what kill -9 leaves of it.
func torn(t *testing.T, dir string) string {
	t.Helper()
	left := t.TempDir()
	if err := os.CopyFS(left, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return left
}

func cut(t *testing.T, dir, file string, bytes int64) {
	t.Helper()
	path := filepath.Join(dir, "kafka/data/partitions/log-0", file)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()-bytes); err != nil {
		t.Fatal(err)
	}
}

// Sizes in kfake's files.
const (
	markerSize     = 78
	indexEntrySize = 15
)

func TestTornLogIsRepaired(t *testing.T) {
	for name, tc := range map[string]struct {
		tear func(t *testing.T, dir string, s *embedded.Stack) (left string)
		want []string // besides `kept` at the beginning
	}{
		"a transaction is open": {tear: func(t *testing.T, dir string, s *embedded.Stack) string {
			produce(t, producer(t, s, "p"), "lost", "lost")
			return torn(t, dir)
		}},
		"the last batch is torn": {tear: func(t *testing.T, dir string, s *embedded.Stack) string {
			produce(t, producer(t, s, "p"), "lost", "lost")
			left := torn(t, dir)
			cut(t, left, "0.dat", 10)
			return left
		}},
		"the last batch is not in the index": {tear: func(t *testing.T, dir string, s *embedded.Stack) string {
			produce(t, producer(t, s, "p"), "lost")
			left := torn(t, dir)
			cut(t, left, "0.idx", indexEntrySize)
			return left
		}},
		"the last index entry is torn": {tear: func(t *testing.T, dir string, s *embedded.Stack) string {
			produce(t, producer(t, s, "p"), "lost")
			left := torn(t, dir)
			cut(t, left, "0.idx", 7)
			return left
		}},
		"the marker of a commit is missing": {tear: func(t *testing.T, dir string, s *embedded.Stack) string {
			p := producer(t, s, "p")
			produce(t, p, "lost")
			commit(t, p)
			left := torn(t, dir)
			cut(t, left, "0.dat", markerSize)
			cut(t, left, "0.idx", indexEntrySize)
			return left
		}},
		"the marker of a commit is not in the index": {tear: func(t *testing.T, dir string, s *embedded.Stack) string {
			p := producer(t, s, "p")
			produce(t, p, "committed")
			commit(t, p)
			left := torn(t, dir)
			cut(t, left, "0.idx", indexEntrySize)
			return left
		}, want: []string{"committed"}},
		"another producer's transaction follows": {tear: func(t *testing.T, dir string, s *embedded.Stack) string {
			produce(t, producer(t, s, "p"), "lost")
			other := producer(t, s, "other")
			produce(t, other, "other")
			commit(t, other)
			return torn(t, dir)
		}, want: []string{"other"}},
		"two producers have one open": {tear: func(t *testing.T, dir string, s *embedded.Stack) string {
			produce(t, producer(t, s, "p"), "lost")
			produce(t, producer(t, s, "other"), "lost")
			return torn(t, dir)
		}},
		"open at a clean close, and killed after the next start": {tear: func(t *testing.T, dir string, s *embedded.Stack) string {
			produce(t, producer(t, s, "p"), "lost")
			s.Close()
			start(t, embedded.Config{Dir: dir, KafkaAddr: "127.0.0.1:0"})
			return torn(t, dir)
		}},
		"killed, and closed cleanly by a broker that did not repair": {tear: func(t *testing.T, dir string, s *embedded.Stack) string {
			produce(t, producer(t, s, "p"), "lost")
			left := torn(t, dir)
			// As if the last end had been clean: nothing is repaired.
			if err := os.WriteFile(filepath.Join(left, "kafka/closed"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			start(t, embedded.Config{Dir: left, KafkaAddr: "127.0.0.1:0"}).Close()
			if err := os.Remove(filepath.Join(left, "kafka/closed")); err != nil {
				t.Fatal(err)
			}
			return left
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := start(t, embedded.Config{Dir: dir, KafkaAddr: "127.0.0.1:0"})
			createTopic(t, s, 1, "log")
			p := producer(t, s, "p")
			produce(t, p, "kept")
			commit(t, p)
			left := tc.tear(t, dir, s)

			want := append([]string{"kept"}, tc.want...)
			for i := range 3 { // every further kill finds a whole log
				s := start(t, embedded.Config{Dir: left, KafkaAddr: "127.0.0.1:0"})
				if got := committed(t, s.KafkaAddr(), "log"); !slices.Equal(got, want) {
					t.Errorf("start %d: %q, want %q", i, got, want)
				}
				// The producer goes on under its name, and readers do not take this for part of what was aborted.
				p, after := producer(t, s, "p"), fmt.Sprint("after ", i)
				produce(t, p, after)
				commit(t, p)
				want = append(want, after)
				if got := committed(t, s.KafkaAddr(), "log"); !slices.Equal(got, want) {
					t.Errorf("start %d, a transaction later: %q, want %q", i, got, want)
				}
				left = torn(t, left)
			}
		})
	}
}

// A transaction that the broker remembers over a clean close is its owner's to end.
func TestOpenTransactionOutlivesACleanClose(t *testing.T) {
	for name, closedAsKnown := range map[string]bool{"closed": true, "closed by a broker that did not say so": false} {
		t.Run(name, func(t *testing.T) {
			cfg := embedded.Config{Dir: t.TempDir(), KafkaAddr: freeAddr(t)}
			s := start(t, cfg)
			createTopic(t, s, 1, "log")
			p := producer(t, s, "p")
			produce(t, p, "first")
			s.Close()
			if !closedAsKnown {
				if err := os.Remove(filepath.Join(cfg.Dir, "kafka/closed")); err != nil {
					t.Fatal(err)
				}
			}
			s = start(t, cfg)
			if err := p.ProduceSync(t.Context(), kgo.StringRecord("second")).FirstErr(); err != nil {
				t.Fatal(err)
			}
			commit(t, p)
			if diff := cmp.Diff([]string{"first", "second"}, committed(t, s.KafkaAddr(), "log")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// However often the broker itself is killed under a load of transactions, whoever reads committed arrives at the
// high watermark of every partition. What is doubled or half visible then is outside of what is promised.
func TestKilledBrokerLeavesReadableLogs(t *testing.T) {
	const (
		partitions = 4
		producers  = 4
		limit      = 12 * time.Second
	)
	topics := []string{"a", "b", "c"}
	s := start(t, embedded.Config{Dir: t.TempDir(), KafkaAddr: "127.0.0.1:0"})
	createTopic(t, s, partitions, topics...)
	kills := 0
	for end := time.Now().Add(limit); kills < 30 && time.Now().Before(end); kills++ {
		ctx, cancel := context.WithCancel(t.Context())
		var load sync.WaitGroup
		for n := range producers {
			load.Go(func() {
				for ctx.Err() == nil {
					_ = writeEverywhere(ctx, s.KafkaAddr(), fmt.Sprint("p", n), topics, partitions) // fails with every kill
				}
			})
		}
		time.Sleep(time.Duration(100+rand.IntN(100)) * time.Millisecond)
		pid := s.PIDs()[embedded.Kafka]
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		cancel()
		load.Wait()
		eventually(t, func() error {
			if now := s.PIDs()[embedded.Kafka]; now == pid || now == 0 {
				return errors.New("the broker has not come back")
			}
			return nil
		})
		readAll(t, s.KafkaAddr(), topics)
		if t.Failed() {
			break
		}
	}
	t.Logf("%d kills", kills)
}

// writeEverywhere writes transactions to all partitions until something fails.
func writeEverywhere(ctx context.Context, addr, id string, topics []string, partitions int32) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.TransactionalID(id),
		kgo.TransactionTimeout(time.Second), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		if err := client.BeginTransaction(); err != nil {
			return err
		}
		var records []*kgo.Record
		for _, topic := range topics {
			for p := range partitions {
				if rand.IntN(2) == 0 {
					records = append(records, &kgo.Record{Topic: topic, Partition: p, Value: []byte(id)})
				}
			}
		}
		if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
			return err
		}
		if err := client.EndTransaction(ctx, kgo.TryCommit); err != nil {
			return err
		}
	}
}

// readAll reads every partition committed up to its high watermark.
func readAll(t *testing.T, addr string, topics []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics(topics...),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topics...)
	if err != nil {
		t.Fatal(err)
	}
	left := make(map[string]map[int32]int64)
	n := 0
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			if left[o.Topic] == nil {
				left[o.Topic] = make(map[int32]int64)
			}
			left[o.Topic][o.Partition] = o.Offset
			n++
		}
	})
	for n > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Errorf("not read to these ends: %v: %v", left, err)
			return
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if end, ok := left[r.Topic][r.Partition]; ok && r.Offset+1 >= end {
				delete(left[r.Topic], r.Partition)
				n--
			}
		})
	}
}
