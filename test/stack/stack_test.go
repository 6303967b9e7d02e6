package stack_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/stack"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
)

func TestMain(m *testing.M) { stack.Main(m) }

func TestKafkaKeepsATransaction(t *testing.T) {
	produceAndConsume(t, stack.Kafka(t))
}

// produceAndConsume commits a record in a transaction and reads it back.
func produceAndConsume(t *testing.T, b *stack.Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	topic := fmt.Sprintf("t%d", time.Now().UnixNano())
	b.CreateTopic(t, topic, 3)
	client, err := kgo.NewClient(append(b.Opts(), kgo.TransactionalID(topic), kgo.ConsumeTopics(topic),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("kept")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	fetches := client.PollRecords(ctx, 1)
	if err := fetches.Err(); err != nil {
		t.Fatal(err)
	}
	if got := string(fetches.Records()[0].Value); got != "kept" {
		t.Fatalf("read %q", got)
	}
}

func TestRegistryGivesAnId(t *testing.T) {
	client, err := sr.NewClient(sr.URLs(stack.Registry(t)))
	if err != nil {
		t.Fatal(err)
	}
	s, err := client.CreateSchema(t.Context(), schemas.Batches+"-value", sr.Schema{Schema: `"string"`})
	if err != nil || s.ID == 0 {
		t.Fatalf("id %d, %v", s.ID, err)
	}
}

func TestClickHouseHasADatabaseForEachTest(t *testing.T) {
	ch := stack.ClickHouse(t)
	a, b := ch.Database(t), ch.Database(t)
	if a == b {
		t.Fatalf("%s twice", a)
	}
	ch.Exec(t, "CREATE TABLE "+a+".t (x UInt8) ENGINE = MergeTree ORDER BY x")
	ch.Exec(t, "INSERT INTO "+a+".t VALUES (1), (2)")
	if got := ch.Exec(t, "SELECT count(), sum(x) FROM "+a+".t"); got != "2\t3" {
		t.Fatalf("answered %q", got)
	}
	if stack.GivenClickHouse() {
		return
	}
	if got := ch.Exec(t, "SELECT timezone(), getSetting('async_insert')"); got != "UTC\tfalse" {
		t.Fatalf("answered %q", got)
	}
}

func TestShardedClickHouse(t *testing.T) {
	ch := stack.Sharded(t)
	db := ch.Database(t)
	for i, node := range ch.Nodes {
		node.Exec(t, "CREATE DATABASE IF NOT EXISTS "+db)
		node.Exec(t, "CREATE TABLE "+db+".here (x UInt8) ENGINE = MergeTree ORDER BY x")
		node.Exec(t, "CREATE TABLE "+db+".everywhere AS "+db+".here ENGINE = Distributed("+ch.Cluster+", "+db+", here)")
		node.Exec(t, fmt.Sprintf("INSERT INTO %s.here VALUES (%d)", db, i))
	}
	for i, node := range ch.Nodes {
		if got := node.Exec(t, "SELECT count(), sum(x) FROM "+db+".everywhere"); got != "2\t1" {
			t.Errorf("node %d answered %q", i, got)
		}
	}
}
