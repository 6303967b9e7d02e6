package transactions

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/twmb/franz-go/pkg/kadm"
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

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// open is a producer's open transaction in a partition of sales, as the partition says, last written to so many seconds ago.
func open(id int64, epoch int16, partition int32, offset, seconds int64) kadm.DescribedProducer {
	return kadm.DescribedProducer{Topic: "sales", Partition: partition, ProducerID: id, ProducerEpoch: epoch, CurrentTxnStartOffset: offset, CoordinatorEpoch: -1,
		LastTimestamp: noon.UnixMilli() - 1000*seconds}
}

// described is what a coordinator says of a producer that has a transaction in partitions of sales.
func described(id int64, state string, partitions ...int32) kadm.DescribedTransaction {
	d := kadm.DescribedTransaction{TxnID: "upstream", ProducerID: id, State: state, TimeoutMillis: 60_000, Topics: kadm.TopicsSet{}}
	for _, p := range partitions {
		d.Topics.Add("sales", p)
		d.StartTimestamp = noon.UnixMilli() - 9000
	}
	return d
}

func TestCombine(t *testing.T) {
	unknown := described(7, "Ongoing", 1)
	unknown.Err = errors.New("loading")
	for _, c := range []struct {
		name  string
		found []kadm.DescribedProducer
		said  []kadm.DescribedTransaction
		want  []Open
	}{
		{"one at work", []kadm.DescribedProducer{open(7, 5, 1, 30, 2), open(7, 5, 2, 40, 1)}, []kadm.DescribedTransaction{described(7, "Ongoing", 1, 2)},
			[]Open{{ID: "upstream", ProducerID: 7, ProducerEpoch: 5, State: "Ongoing", Seconds: 9, TimeoutSeconds: 60, Partitions: []Place{{Topic: "sales", Partition: 1, Offset: 30}, {Topic: "sales", Partition: 2, Offset: 40}}}}},
		{"left behind", []kadm.DescribedProducer{open(7, 5, 1, 30, 2)}, []kadm.DescribedTransaction{described(7, "CompleteCommit")},
			[]Open{{ID: "upstream", ProducerID: 7, ProducerEpoch: 5, State: "CompleteCommit", Seconds: 2, TimeoutSeconds: 60, LeftBehind: true, Partitions: []Place{{Topic: "sales", Partition: 1, Offset: 30}}}}},
		{"left behind in one partition by a producer of the same epoch that works in another", []kadm.DescribedProducer{open(7, 5, 1, 30, 600), open(7, 5, 2, 40, 0)},
			[]kadm.DescribedTransaction{described(7, "Ongoing", 2)}, []Open{
				{ID: "upstream", ProducerID: 7, ProducerEpoch: 5, State: "Ongoing", Seconds: 9, TimeoutSeconds: 60, Partitions: []Place{{Topic: "sales", Partition: 2, Offset: 40}}},
				{ID: "upstream", ProducerID: 7, ProducerEpoch: 5, State: "Ongoing", Seconds: 600, TimeoutSeconds: 60, LeftBehind: true, Partitions: []Place{{Topic: "sales", Partition: 1, Offset: 30}}},
			}},
		{"no coordinator names it", []kadm.DescribedProducer{open(7, 5, 1, 30, 2)}, []kadm.DescribedTransaction{described(8, "Ongoing", 1)},
			[]Open{{ProducerID: 7, ProducerEpoch: 5, Seconds: 2, Partitions: []Place{{Topic: "sales", Partition: 1, Offset: 30}}}}},
		{"its coordinator does not say", []kadm.DescribedProducer{open(7, 5, 1, 30, 2)}, []kadm.DescribedTransaction{unknown},
			[]Open{{ID: "upstream", ProducerID: 7, ProducerEpoch: 5, Seconds: 2, Partitions: []Place{{Topic: "sales", Partition: 1, Offset: 30}}}}},
	} {
		got := combine(c.found, c.said, noon)
		if diff := cmp.Diff(c.want, got, cmpopts.IgnoreUnexported(Open{}, Place{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// What is not there any more once the coordinators have answered has ended, and so has what begins elsewhere by then.
func TestStillOpen(t *testing.T) {
	found := []kadm.DescribedProducer{open(7, 5, 1, 30, 2), open(7, 5, 2, 40, 2), open(8, 1, 1, 33, 2)}
	all := combine(found, []kadm.DescribedTransaction{described(7, "CompleteCommit"), described(8, "Ongoing", 1)}, noon)
	if got := stillOpen(all, []kadm.DescribedProducer{open(7, 5, 2, 40, 2), open(7, 6, 1, 50, 0)}); len(got) != 2 || len(got[0].Partitions) != 1 || got[0].Partitions[0].Partition != 2 || got[1].ProducerID != 8 {
		t.Errorf("%+v", got)
	}
	all = combine(found[:2], []kadm.DescribedTransaction{described(7, "CompleteCommit")}, noon)
	if got := stillOpen(all, nil); len(got) != 0 {
		t.Errorf("of what has ended: %+v", got)
	}
}

// record is one of the coordinators' log.
func record(state kmsg.TransactionState, id int64, epoch, version int16, partitions ...int32) *kmsg.TxnMetadataValue {
	v := &kmsg.TxnMetadataValue{ProducerID: id, ProducerEpoch: epoch, State: state, ClientTransactionVersion: version}
	if partitions != nil {
		v.Topics = []kmsg.TxnMetadataValueTopic{{Topic: "calls", Partitions: []int32{0, 1, 2, 3}}, {Topic: "sales", Partitions: partitions}}
	}
	return v
}

func TestDecide(t *testing.T) {
	const (
		ongoing, commit, abort      = kmsg.TransactionStateOngoing, kmsg.TransactionStatePrepareCommit, kmsg.TransactionStatePrepareAbort
		completeCommit              = kmsg.TransactionStateCompleteCommit
		none, undecided, inProgress = "none", "undecided", "in progress"
	)
	type records []*kmsg.TxnMetadataValue
	for _, c := range []struct {
		name    string
		records records
		unnamed bool // by a coordinator
		want    string
		epoch   int16 // of the marker
	}{
		{"its commit", records{record(ongoing, 7, 5, 2, 1), record(commit, 7, 6, 2, 1), record(completeCommit, 7, 6, 2)}, false, Commit, 6},
		{"its abort", records{record(abort, 7, 6, 2, 1)}, false, Abort, 6},
		{"its abort when its time had passed", records{record(abort, 7, 7, 2, 1)}, false, Abort, 7},
		{"its commit, of version 1", records{record(commit, 7, 5, 0, 1)}, false, Commit, 5},
		{"the last one that lists the place, of version 1", records{record(commit, 7, 5, 0, 1), record(abort, 7, 5, 0, 1), record(commit, 7, 5, 0, 2)}, false, Abort, 5},
		{"the first one that lists the place, of version 2", records{record(commit, 7, 6, 2, 1), record(abort, 7, 7, 2, 1)}, false, Commit, 6},
		{"only the commit of the transaction before", records{record(commit, 7, 5, 2, 1)}, false, undecided, 0},
		{"only a decision of an earlier epoch", records{record(commit, 7, 4, 0, 1)}, false, undecided, 0},
		{"a decision elsewhere", records{record(commit, 7, 6, 2, 2)}, false, undecided, 0},
		{"another producer's", records{record(commit, 8, 6, 2, 1)}, false, undecided, 0},
		{"what is left of its commit", records{record(completeCommit, 7, 6, 2)}, false, Commit, 6},
		{"what is left of a later commit", records{record(completeCommit, 7, 7, 2)}, false, undecided, 0},
		{"its producer is another one now", records{record(commit, 7, 6, 2, 1), record(completeCommit, 9, 0, 2)}, true, Commit, 6},
		{"it may not be seen, and its coordinator is at work", records{record(commit, 7, 4, 2, 1), record(ongoing, 7, 5, 2, 1)}, true, inProgress, 0},
		{"nothing is known of it", nil, true, none, 0},
	} {
		said := []kadm.DescribedTransaction{described(7, "CompleteCommit")}
		if c.unnamed {
			said = nil
		}
		open := combine([]kadm.DescribedProducer{open(7, 5, 1, 30, 2)}, said, noon)
		l := newLog(open)
		for _, value := range c.records {
			l.add("upstream", value)
		}
		l.add("other", record(abort, 8, 6, 2, 1))
		got := l.decided(open)
		if len(got) != 1 {
			t.Errorf("%s: %+v", c.name, got)
			continue
		}
		is := got[0].Decided
		switch {
		case got[0].ID == "":
			is = none
		case !got[0].LeftBehind:
			is = inProgress
		case is == "":
			is = undecided
		}
		if is != c.want || got[0].markers.epoch != c.epoch {
			t.Errorf("%s: %s by epoch %d, want %s by %d", c.name, is, got[0].markers.epoch, c.want, c.epoch)
		}
	}
}

// Partitions in which transactions of one epoch ended differently are parted.
func TestDecideParts(t *testing.T) {
	open := combine([]kadm.DescribedProducer{open(7, 5, 1, 30, 2), open(7, 5, 2, 40, 2), open(7, 5, 3, 50, 2)}, []kadm.DescribedTransaction{described(7, "Empty")}, noon)
	l := newLog(open)
	l.add("upstream", record(kmsg.TransactionStatePrepareCommit, 7, 5, 0, 1))
	l.add("upstream", record(kmsg.TransactionStatePrepareAbort, 7, 5, 0, 3))
	got := l.decided(open)
	if len(got) != 3 || got[0].Decided != "" || got[0].Partitions[0].Partition != 2 || got[1].Decided != Abort || got[1].Partitions[0].Partition != 3 || got[2].Decided != Commit || got[2].Partitions[0].Partition != 1 {
		t.Errorf("%+v", got)
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
