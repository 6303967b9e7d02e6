package ingest_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/counterfoil/counterfoil/ingest"
)

func TestABatchIsAnsweredWithTheOutcomeOfEachItem(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	s := w.start(t, nil)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	status, a := post(t, s, key, testItem{Ref: "a", Account: "1"}, testItem{Ref: "b", Defect: true}, testItem{Ref: "c", Account: "missing"}, testItem{Ref: "d", Account: "2"})
	if diff := cmp.Diff([]string{"processed", "unprocessed invalid", "unprocessed not_found", "processed"}, a.Items); diff != "" || status != 200 {
		t.Fatalf("status %d (-want +got):\n%s", status, diff)
	}
	times := []time.Duration{}
	for range 20 {
		begun := time.Now()
		if status, _ := post(t, s, key, testItem{Ref: "a", Account: "1"}); status != 200 {
			t.Fatal(status)
		}
		times = append(times, time.Since(begun))
	}
	t.Log(times)
}
