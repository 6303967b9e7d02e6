package processors

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/schemas"
)

// TestExpelledWhileItCommits: the group throws a copy out while its round is being committed, and its heartbeat has noticed before the
// coordinator answers the commit. That is what a coordinator looks like that stood still for longer than the session. The copy must come back.
func TestExpelledWhileItCommits(t *testing.T) {
	w := newWorld(t)
	if w.broker.Fake == nil {
		t.Skip("faults are injected into kfake")
	}
	side := w.newClient()
	var once atomic.Bool
	w.broker.Fake.ControlKey(int16(kmsg.TxnOffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Fake.KeepControl()
		commit := req.(*kmsg.TxnOffsetCommitRequest)
		if commit.Group != Group(Upserts) || !once.CompareAndSwap(false, true) {
			return nil, nil, false
		}
		t.Log("commit by", commit.MemberID, commit.Generation)
		w.broker.Fake.SleepControl(func() {
			w.throwOut(side, commit.Group, commit.MemberID)
			time.Sleep(1200 * time.Millisecond) // two heartbeats, and less than the transaction may take
		})
		return nil, nil, false
	})
	w.start(Upserts, nil).ready()
	w.produce(w.grants(100, 20)...)
	w.checkOnce(w.awaitOutcomes(schemas.KindOwnership, 100))
	if !once.Load() {
		t.Error("no commit was held up")
	}
}
