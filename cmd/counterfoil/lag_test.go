package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// commitAll commits the log's start for every group, as migrate does.
func (x *tools) commitAll(t *testing.T) {
	t.Helper()
	adm := kadm.NewClient(x.client)
	for group, topics := range groups() {
		starts, err := adm.ListStartOffsets(t.Context(), topics...)
		if err != nil {
			t.Fatal(err)
		}
		x.commit(t, group, starts.Offsets())
	}
}

func (x *tools) commit(t *testing.T, group string, offsets kadm.Offsets) {
	t.Helper()
	done, err := kadm.NewClient(x.client).CommitOffsets(t.Context(), group, offsets)
	if err == nil {
		err = done.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (x *tools) produce(t *testing.T, client *kgo.Client, topic string, partition int32, values ...string) {
	t.Helper()
	for _, v := range values {
		if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Partition: partition, Value: []byte(v)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// find returns the row of a group and partition.
func find(t *testing.T, s standing, group, topic string, partition int32) partitionLag {
	t.Helper()
	for _, p := range s.Partitions {
		if p.Group == group && p.Topic == topic && p.Partition == partition {
			return p
		}
	}
	t.Fatalf("no row for %s %s/%d in %+v", group, topic, partition, s.Partitions)
	return partitionLag{}
}

func TestLag(t *testing.T) {
	x := newTools(t)
	x.commitAll(t)
	if out := x.good(t, "", "lag"); !strings.Contains(out, "Nothing waits") {
		t.Errorf("of idle groups it said %q", out)
	}
	total := 0
	for _, topics := range groups() {
		for _, topic := range topics {
			n := 3
			if of, _ := schemas.TopicNamed(topic); of.Partitions > 0 {
				n = of.Partitions
			}
			total += n
		}
	}
	if all := lines[standing](t, x.good(t, "", "lag", "--all", "--json"))[0]; len(all.Partitions) != total {
		t.Errorf("--all shows %d partitions, there are %d", len(all.Partitions), total)
	}

	// Two of three records are read; then nobody is there to go on.
	x.produce(t, x.client, schemas.KindOwnership, 1, "a", "b", "c")
	at := kadm.Offsets{}
	at.Add(kadm.Offset{Topic: schemas.KindOwnership, Partition: 1, At: 2, LeaderEpoch: -1})
	x.commit(t, schemas.GroupUpserts, at)
	time.Sleep(100 * time.Millisecond)
	s := lines[standing](t, x.good(t, "", "lag", "--json", "--window", "200ms"))[0]
	row := find(t, s, schemas.GroupUpserts, schemas.KindOwnership, 1)
	if row.Seconds < 0.1 || row.Seconds > 20 {
		t.Errorf("the record waits for %f s", row.Seconds)
	}
	row.Seconds = 0
	two := int64(2)
	want := partitionLag{Group: schemas.GroupUpserts, Topic: schemas.KindOwnership, Partition: 1, Committed: 2, Stable: 3, End: 3, Records: 1, Oldest: &two,
		Stuck: "no copy of the role owns the partition: is it running?"}
	if diff := cmp.Diff(want, row); diff != "" {
		t.Error(diff)
	}
	if len(s.Partitions) != 1 {
		t.Errorf("without --all it shows %+v", s.Partitions)
	}
	if out := x.good(t, "", "lag", "--window", "200ms"); !strings.Contains(out, "STUCK: counterfoil-upserts before topic ownership partition 1 offset 2,") {
		t.Errorf("it does not name the record that is stuck:\n%s", out)
	}
	if s := lines[standing](t, x.good(t, "", "lag", "--json", "--window", "0"))[0]; s.Partitions[0].Stuck != "" {
		t.Errorf("one look cannot tell what is stuck: %+v", s.Partitions[0])
	}
	if code, _, _ := x.call(t, "", "lag", "--window", "0", "--max-seconds", "3600"); code != 0 {
		t.Errorf("exit code %d below the bound", code)
	}
	code, out, errs := x.call(t, "", "lag", "--window", "0", "--max-seconds", "0")
	if code != exitLate || !strings.Contains(out, "ownership") || !strings.Contains(errs, "ownership/1") {
		t.Errorf("beyond the bound: exit code %d, %s%s", code, out, errs)
	}
}

func TestLagNamesTheOwner(t *testing.T) {
	x := newTools(t)
	x.commitAll(t)
	member, err := kgo.NewClient(append(x.broker.Opts(), kgo.ConsumerGroup(schemas.GroupUpserts), kgo.ConsumeTopics(schemas.KindOwnership),
		kgo.InstanceID("process-1"), kgo.DisableAutoCommit())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(member.Close)
	x.produce(t, x.client, schemas.KindOwnership, 0, "a")
	if fetches := member.PollFetches(t.Context()); fetches.Err() != nil {
		t.Fatal(fetches.Err())
	}
	time.Sleep(100 * time.Millisecond)
	s := lines[standing](t, x.good(t, "", "lag", "--json", "--window", "100ms"))[0]
	row := find(t, s, schemas.GroupUpserts, schemas.KindOwnership, 0)
	if row.Owner != "process-1" || row.Host == "" || !strings.Contains(row.Stuck, "its owner") {
		t.Errorf("%+v", row)
	}
}

func TestLagShowsTheTransactionThatHoldsBack(t *testing.T) {
	x := newTools(t)
	x.commitAll(t)
	dead := x.beginTransaction(t, "upstream-1", schemas.KindSales, 2)
	time.Sleep(1100 * time.Millisecond) // younger ones are not shown
	x.produce(t, x.client, schemas.KindSales, 2, "behind it")
	s := lines[standing](t, x.good(t, "", "lag", "--json", "--window", "100ms"))[0]
	row := find(t, s, schemas.GroupMatching, schemas.KindSales, 2)
	if row.Stable != 0 || row.End != 2 || row.Records != 2 || *row.Oldest != 0 || !strings.Contains(row.Stuck, "open transaction") {
		t.Errorf("%+v", row)
	}
	if len(s.Transactions) != 1 {
		t.Fatalf("transactions: %+v", s.Transactions)
	}
	open := s.Transactions[0]
	if open.ID != "upstream-1" || open.State != "Ongoing" || open.LeftBehind || open.Seconds < 1 || open.Seconds > 20 || open.TimeoutSeconds != 600 || firstFew(open.Partitions) != "sales/2@0" {
		t.Errorf("%+v", open)
	}
	if out := x.good(t, "", "lag", "--window", "0"); !strings.Contains(out, "OPEN TRANSACTION upstream-1") {
		t.Errorf("it does not name the transaction:\n%s", out)
	}
	if err := dead.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	if s := lines[standing](t, x.good(t, "", "lag", "--all", "--json", "--window", "0"))[0]; len(s.Transactions) != 0 {
		t.Errorf("after its end: %+v", s.Transactions)
	}
}

// beginTransaction begins a transaction, with a timeout of ten minutes, and writes one record in it.
func (x *tools) beginTransaction(t *testing.T, id, topic string, partition int32) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append(x.broker.Opts(), kgo.TransactionalID(id), kgo.TransactionTimeout(10*time.Minute), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	x.produce(t, client, topic, partition, "not committed")
	return client
}

// TestLagOfABusyGroup measures while the group reads and commits: nothing may seem to be wrong.
func TestLagOfABusyGroup(t *testing.T) {
	x := newTools(t)
	x.commitAll(t)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		adm := kadm.NewClient(x.client)
		for ctx.Err() == nil {
			rec := &kgo.Record{Topic: schemas.KindSales, Partition: 0, Value: []byte("x")}
			if err := x.client.ProduceSync(ctx, rec).FirstErr(); err != nil {
				continue
			}
			at := kadm.Offsets{}
			at.Add(kadm.Offset{Topic: rec.Topic, Partition: 0, At: rec.Offset + 1, LeaderEpoch: -1})
			_, _ = adm.CommitOffsets(ctx, schemas.GroupMatching, at) // a refused one is made up for by the next
		}
	}()
	defer func() { stop(); <-done }()
	for range 30 {
		s, err := measure(t.Context(), x.broker.Opts(), kadm.NewClient(x.client), time.Now)
		if err != nil {
			t.Fatal(err)
		}
		if row := find(t, *s, schemas.GroupMatching, schemas.KindSales, 0); row.Problem != "" || row.Committed > row.End {
			t.Fatalf("%+v", row)
		}
	}
}

func TestLagSaysWhatItDoesNotKnow(t *testing.T) {
	x := newTools(t)
	x.commitAll(t)
	gone := kadm.TopicsSet{}
	gone.Add(schemas.KindReferrals, 1)
	if _, err := kadm.NewClient(x.client).DeleteOffsets(t.Context(), schemas.GroupValidation, gone); err != nil {
		t.Fatal(err)
	}
	code, out, errs := x.call(t, "", "lag")
	if code != 1 || !strings.Contains(out, "UNKNOWN: counterfoil-validation in referrals/1") || !strings.Contains(errs, "doctor") {
		t.Errorf("a lost commit: exit code %d\n%s%s", code, out, errs)
	}
	if code, _, _ := x.call(t, "", "lag", "--max-seconds", "-2"); code != 2 {
		t.Errorf("a wrong flag: exit code %d", code)
	}
	x.environ = []string{"KAFKA_BROKERS=127.0.0.1:1"}
	if code, _, errs := x.call(t, "", "lag"); code != 1 || !strings.Contains(errs, "KAFKA_BROKERS") {
		t.Errorf("no Kafka: exit code %d, %s", code, errs)
	}
}
