package processors

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/schemas"
)

// TestOvertakenByTheNextGeneration: a copy polls while its client joins the group's next generation, and is slow to write what it judged. When
// it commits, the generation has begun and other partitions are its own. It must not commit what it owns no more, though the broker would take it.
func TestOvertakenByTheNextGeneration(t *testing.T) {
	w := newWorld(t)
	if w.broker.Fake == nil {
		t.Skip("requests are held up in kfake")
	}
	group := Group(Upserts)
	a := w.start(Upserts, nil).ready()
	w.produce(w.grants(40, 8)...)
	w.awaitOutcomes(schemas.KindOwnership, 40)
	id, generation := a.session.cl.GroupMetadata()

	// The plan of each generation, from the leader's mouth, and the commits that it does not allow.
	var mu sync.Mutex
	plans := map[int32]map[string][]int32{} // generation → member → partitions
	var wrong, overtaken atomic.Int32
	synced, polled := make(chan struct{}), make(chan struct{})
	meanwhile := w.grants(40, 8)
	var joined, wrote, told sync.Once
	fake := w.broker.Fake
	fake.ControlKey(int16(kmsg.SyncGroup), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		sync := req.(*kmsg.SyncGroupRequest)
		if sync.Group == group && len(sync.GroupAssignment) > 0 {
			plan := map[string][]int32{}
			for _, of := range sync.GroupAssignment {
				var assignment kmsg.ConsumerMemberAssignment
				if err := assignment.ReadFrom(of.MemberAssignment); err != nil {
					t.Error(err)
				}
				for _, topic := range assignment.Topics {
					plan[of.MemberID] = topic.Partitions
				}
			}
			mu.Lock()
			plans[sync.Generation] = plan
			mu.Unlock()
			if sync.Generation > generation {
				told.Do(func() { time.AfterFunc(500*time.Millisecond, func() { close(synced) }) })
			}
		}
		return nil, nil, false
	})
	fake.ControlKey(int16(kmsg.JoinGroup), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		if req.(*kmsg.JoinGroupRequest).MemberID == id {
			joined.Do(func() {
				fake.SleepControl(func() {
					if err := w.client.ProduceSync(t.Context(), meanwhile...).FirstErr(); err != nil {
						t.Error(err)
					}
					select { // the first copy polls and judges while it joins
					case <-polled:
					case <-time.After(5 * time.Second):
						t.Error("nothing was written while the copy joined")
					}
				})
			})
		}
		return nil, nil, false
	})
	fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		if txn := req.(*kmsg.ProduceRequest).TransactionID; txn != nil && *txn == "process-"+Upserts+"-"+a.instance {
			wrote.Do(func() {
				close(polled)
				fake.SleepControl(func() { <-synced })
			})
		}
		return nil, nil, false
	})
	fake.ControlKey(int16(kmsg.TxnOffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		commit := req.(*kmsg.TxnOffsetCommitRequest)
		if commit.Group != group || commit.Generation <= generation {
			return nil, nil, false
		}
		overtaken.Add(1)
		mu.Lock()
		defer mu.Unlock()
		for _, topic := range commit.Topics {
			for _, p := range topic.Partitions {
				if !slices.Contains(plans[commit.Generation][commit.MemberID], p.Partition) {
					wrong.Add(1)
					t.Logf("in generation %d %s commits %d of partition %d; the plan is %v", commit.Generation, commit.MemberID, p.Offset, p.Partition, plans[commit.Generation])
				}
			}
		}
		return nil, nil, false
	})

	w.start(Upserts, nil)
	select {
	case <-synced:
	case <-time.After(20 * time.Second):
		t.Fatal("the next generation does not begin")
	}
	w.produce(w.grants(40, 8)...)
	w.checkOnce(w.awaitOutcomes(schemas.KindOwnership, 120))
	if wrong.Load() > 0 {
		t.Errorf("%d positions were committed by a copy that did not own the partition", wrong.Load())
	}
	if overtaken.Load() == 0 {
		t.Error("nothing was committed in the next generation")
	}
	t.Log("restarts of the first copy:", counted(a.metrics.restarts)) // one that was refused under its old generation begins afresh
}

// TestSkippedGeneration: a copy keeps its member id and its partitions, and a generation of the group passes it by. It goes on where nothing was
// committed meanwhile, and else begins afresh.
func TestSkippedGeneration(t *testing.T) {
	for _, judged := range []bool{false, true} {
		t.Run(fmt.Sprintf("others have judged %t", judged), func(t *testing.T) {
			w := newWorld(t)
			if w.broker.Fake == nil {
				t.Skip("answers are made up in kfake")
			}
			a := w.start(Upserts, nil).ready()
			w.produce(w.grants(40, 8)...)
			w.awaitOutcomes(schemas.KindOwnership, 40)
			id, generation := a.session.cl.GroupMetadata()
			var skipped, asked atomic.Bool
			w.broker.Fake.ControlKey(int16(kmsg.SyncGroup), func(req kmsg.Request) (kmsg.Response, error, bool) {
				w.broker.Fake.KeepControl()
				sync := req.(*kmsg.SyncGroupRequest)
				if sync.MemberID != id || sync.Generation != generation+1 || !skipped.CompareAndSwap(false, true) {
					return nil, nil, false
				}
				resp := sync.ResponseKind().(*kmsg.SyncGroupResponse)
				resp.ErrorCode = kerr.RebalanceInProgress.Code
				return resp, nil, true
			})
			w.broker.Fake.ControlKey(int16(kmsg.OffsetFetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
				w.broker.Fake.KeepControl()
				fetch := req.(*kmsg.OffsetFetchRequest)
				if !skipped.Load() || len(fetch.Groups) != 1 || fetch.Groups[0].Group != Group(Upserts) || len(fetch.Groups[0].Topics) > 0 ||
					!fetch.RequireStable || !asked.CompareAndSwap(false, true) || !judged {
					return nil, nil, false
				}
				resp := fetch.ResponseKind().(*kmsg.OffsetFetchResponse)
				resp.Groups = append(resp.Groups, kmsg.OffsetFetchResponseGroup{Group: fetch.Groups[0].Group})
				return resp, nil, true
			})
			w.start(Upserts, nil)
			w.eventually("the copy asks for the commits", func() error {
				if !asked.Load() {
					return errors.New("not yet")
				}
				return nil
			})
			if judged {
				w.eventually("the copy begins afresh", func() error {
					if counted(a.metrics.restarts) == 0 {
						return errors.New("it goes on from where it was")
					}
					return nil
				})
			}
			w.produce(w.grants(40, 8)...)
			w.checkOnce(w.awaitOutcomes(schemas.KindOwnership, 80))
		})
	}
}

// TestClientThatGoesBack: Kafka's client reads on from before what was judged and committed.
func TestClientThatGoesBack(t *testing.T) {
	w := newWorld(t)
	a := w.start(Upserts, nil).ready()
	w.produce(w.grants(40, 8)...)
	w.awaitOutcomes(schemas.KindOwnership, 40)
	w.awaitCommitted(Upserts)
	back := map[int32]kgo.EpochOffset{}
	for p := range int32(partitions) {
		back[p] = kgo.EpochOffset{Epoch: -1, Offset: 0}
	}
	a.session.cl.SetOffsets(map[string]map[int32]kgo.EpochOffset{schemas.KindOwnership: back})
	w.produce(w.grants(40, 8)...)
	w.checkOnce(w.awaitOutcomes(schemas.KindOwnership, 80))
}

// awaitCommitted waits until a group has read all of its topics.
func (w *world) awaitCommitted(name string) {
	w.t.Helper()
	w.eventually("everything is committed", func() error {
		if lag, err := w.lag(Group(name)); err != nil || lag > 0 {
			return fmt.Errorf("lag %d: %w", lag, err)
		}
		return nil
	})
}

// TestClientThatForgetsPositions: while a round is written, Kafka's client comes to believe that all of it is committed, so that its commit would
// hold no position. The round is not committed either.
func TestClientThatForgetsPositions(t *testing.T) {
	w := newWorld(t)
	if w.broker.Fake == nil {
		t.Skip("requests are held up in kfake")
	}
	a := w.start(Upserts, nil).ready()
	var once atomic.Bool
	w.broker.Fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Fake.KeepControl()
		if txn := req.(*kmsg.ProduceRequest).TransactionID; txn == nil || !once.CompareAndSwap(false, true) {
			return nil, nil, false
		}
		a.session.cl.SetOffsets(a.session.cl.UncommittedOffsets())
		return nil, nil, false
	})
	w.produce(w.grants(40, 8)...)
	w.awaitOutcomes(schemas.KindOwnership, 40)
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	w.start(Upserts, nil)
	w.produce(w.grants(40, 8)...)
	w.checkOnce(w.awaitOutcomes(schemas.KindOwnership, 80))
	if counted(a.metrics.restarts) == 0 {
		t.Error("the round was committed without its positions")
	}
}
