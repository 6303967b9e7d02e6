package ingest_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// The broker refuses one record of a transaction and takes the others, which Kafka and its client would let us commit.
func TestABatchOfWhichTheBrokerRefusesOneRecordIsRefusedWhole(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	limit := func(bytes string) {
		_, err := w.admin.AlterTopicConfigs(context.Background(), []kadm.AlterConfig{{Name: "max.message.bytes", Value: &bytes}}, schemas.KindCustomerEvents)
		check(t, err)
	}
	topic, _ := schemas.TopicNamed(schemas.KindCustomerEvents)
	limit("2000")
	defer limit(topic.Config["max.message.bytes"]) // a real broker is shared by the tests of a package
	s := w.start(t, nil)
	// The door's outcome goes to another topic, so that part of the batch can be written.
	good := []testItem{{Ref: "a", Account: "1"}, {Ref: "b", Defect: true}}
	if status, _ := post(t, s, key, good...); status != 200 {
		t.Fatalf("before: status %d", status)
	}
	w.decided(t, schemas.Batches, schemas.KindCustomerEvents, schemas.UnprocessedTopic(schemas.KindCustomerEvents))
	itemsBefore, before := w.stored(t)
	var noise strings.Builder // that no compression makes small
	for i := range 1000 {
		fmt.Fprintf(&noise, "%x", i*i*2654435761)
	}
	if status, a := post(t, s, key, append(good, testItem{Ref: "c", Account: noise.String()})...); status != 503 {
		t.Errorf("status %d, want 503: %v", status, a)
	}
	w.decided(t, schemas.Batches, schemas.KindCustomerEvents, schemas.UnprocessedTopic(schemas.KindCustomerEvents))
	items, headers := w.stored(t)
	if !maps.Equal(headers, before) || !maps.Equal(items, itemsBefore) {
		t.Errorf("stored are %d batches with items, %d headers; want %d and %d as before, and unchanged", len(items), len(headers), len(itemsBefore), len(before))
	}
	if status, _ := post(t, s, key, good...); status != 200 {
		t.Errorf("afterwards: status %d", status)
	}
}

// decided waits until no transaction in the topics is open.
func (w *world) decided(t *testing.T, topics ...string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		ends := w.ends(t, topics...)
		stable, err := w.admin.ListCommittedOffsets(t.Context(), topics...)
		check(t, err)
		open := ""
		ends.Each(func(o kadm.ListedOffset) {
			if s, _ := stable.Lookup(o.Topic, o.Partition); s.Offset < o.Offset {
				open = fmt.Sprintf("%s/%d is decided up to %d of %d", o.Topic, o.Partition, s.Offset, o.Offset)
			}
		})
		switch {
		case open == "":
			return
		case time.Now().After(deadline):
			t.Fatal(open)
		}
	}
}
