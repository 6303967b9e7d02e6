package transactions

import (
	"encoding/json"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// A coordinator's log is asked in one partition only. The hashes are those of java.lang.String, the least one of all among them.
func TestCoordinatedIn(t *testing.T) {
	for id, hash := range map[string]int32{"": 0, "hello": 99162322, "grüße 😀": 347379084, "process-upserts-process-2": -2096638195, "polygenelubricants": 0} {
		if got, want := coordinatedIn(id, 50), max(hash, -hash)%50; got != want {
			t.Errorf("%q: partition %d, want %d", id, got, want)
		}
	}
}

func TestDecides(t *testing.T) {
	open := &Open{ProducerID: 7, ProducerEpoch: 5}
	for _, c := range []struct {
		name    string
		id      int64
		epoch   int16
		version int16
		state   kmsg.TransactionState
		want    string
	}{
		{"its commit", 7, 6, 2, kmsg.TransactionStatePrepareCommit, Commit},
		{"its abort", 7, 6, 2, kmsg.TransactionStatePrepareAbort, Abort},
		{"its abort when its time had passed", 7, 7, 2, kmsg.TransactionStatePrepareAbort, Abort},
		{"its commit, before KIP-890", 7, 5, 0, kmsg.TransactionStatePrepareCommit, Commit},
		{"the commit of the transaction before", 7, 5, 2, kmsg.TransactionStatePrepareCommit, ""},
		{"of an earlier epoch", 7, 4, 0, kmsg.TransactionStatePrepareCommit, ""},
		{"another producer's", 8, 6, 2, kmsg.TransactionStatePrepareCommit, ""},
		{"not a decision", 7, 6, 2, kmsg.TransactionStateCompleteCommit, ""},
	} {
		got, ok := decides(&kmsg.TxnMetadataValue{ProducerID: c.id, ProducerEpoch: c.epoch, ClientTransactionVersion: c.version, State: c.state}, open)
		if got.what != c.want || ok != (c.want != "") || ok && got.epoch != c.epoch {
			t.Errorf("%s: %+v, want %q", c.name, got, c.want)
		}
	}
}

func TestPlacesAreText(t *testing.T) {
	text, err := json.Marshal(Place{Topic: "sales", Partition: 2, Offset: 30})
	if err != nil || string(text) != `"sales/2@30"` {
		t.Errorf("%s, %v", text, err)
	}
	var p Place
	if err := json.Unmarshal(text, &p); err != nil || p != (Place{Topic: "sales", Partition: 2, Offset: 30}) {
		t.Errorf("%+v, %v", p, err)
	}
	if json.Unmarshal([]byte(`"sales"`), &p) == nil {
		t.Error("a text without a partition is a place")
	}
}
