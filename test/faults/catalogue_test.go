package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
)

// fault is one way to break something. do breaks it, waits, and mends it; it draws what it needs to know from its own dice.
type fault struct {
	name  string
	needs need
	do    func(r *run, dice *rand.Rand)
}

// need is what must be ours to break.
type need uint

const (
	ownKafka need = 1 << iota
	apache        // Apache Kafka, ours
	fake          // kfake
	ownRegistry
	ownClickHouse
)

// Sessions, leases and transactions last 2 s: a pause of more than that is one that others have noticed.
const beyondSession = 2500 * time.Millisecond

// catalogue is all faults. The package comment has them in words.
var catalogue = []fault{
	{"kill ingest", 0, func(r *run, dice *rand.Rand) { r.killCopy(pick(dice, r.c.Ingest), dice) }},
	{"kill process", 0, func(r *run, dice *rand.Rand) { r.killCopy(pick(dice, r.c.Process), dice) }},
	{"kill sink", 0, func(r *run, dice *rand.Rand) { r.killCopy(pick(dice, r.c.Sink), dice) }},
	{"stop ingest", 0, func(r *run, dice *rand.Rand) { r.stopCopy(pick(dice, r.c.Ingest), dice) }},
	{"stop process", 0, func(r *run, dice *rand.Rand) { r.stopCopy(pick(dice, r.c.Process), dice) }},
	{"stop sink", 0, func(r *run, dice *rand.Rand) { r.stopCopy(pick(dice, r.c.Sink), dice) }},
	{"process joins and leaves", 0, func(r *run, dice *rand.Rand) { r.joinAndLeave(r.extraProcess, dice) }},
	{"sink joins and leaves", 0, func(r *run, dice *rand.Rand) { r.joinAndLeave(r.extraSink, dice) }},

	{"open items are replayed", 0, (*run).replay},

	{"kill Kafka", ownKafka, (*run).killKafka},
	{"stop Kafka", apache, func(r *run, dice *rand.Rand) {
		defer r.hold("kafka")()
		r.excuse(func() {
			r.c.Broken.Broker.Pause()
			sleep(dice, beyondSession, 5*time.Second)
			r.c.Broken.Broker.Resume()
		}, r.c.Ingest...)
	}},
	{"Kafka cut off", ownKafka, func(r *run, dice *rand.Rand) { r.breakKafkaWire(harness.Cut, dice) }},
	{"Kafka silent", ownKafka, func(r *run, dice *rand.Rand) { r.breakKafkaWire(harness.Silent, dice) }},
	{"Kafka's answers lost", ownKafka, func(r *run, dice *rand.Rand) { r.breakKafkaWire(harness.Unanswered, dice) }},
	{"Kafka slow", ownKafka, func(r *run, dice *rand.Rand) { r.breakKafkaWire(harness.Slow, dice) }},
	{"lost offsets are adopted", ownKafka, (*run).loseOffsets},
	{"commits applied and answered with an error", fake, func(r *run, dice *rand.Rand) { r.unsureCommits(true, dice) }},
	{"commits answered with an error", fake, func(r *run, dice *rand.Rand) { r.unsureCommits(false, dice) }},
	{"coordinators not there", fake, (*run).noCoordinator},

	{"kill ClickHouse", ownClickHouse, func(r *run, dice *rand.Rand) {
		defer r.hold("clickhouse")()
		for range 1 + dice.IntN(2) {
			r.c.Broken.ClickHouse.Kill()
			sleep(dice, 0, 2*time.Second)
		}
	}},
	{"stop ClickHouse", ownClickHouse, func(r *run, dice *rand.Rand) {
		defer r.hold("clickhouse")()
		r.c.Broken.ClickHouse.Pause()
		sleep(dice, beyondSession, 5*time.Second)
		r.c.Broken.ClickHouse.Resume()
	}},
	{"ClickHouse out of memory", ownClickHouse, (*run).outOfMemory},
	{"ClickHouse has too many parts", ownClickHouse, func(r *run, dice *rand.Rand) {
		r.refuse(dice, "MODIFY SETTING parts_to_throw_insert = 1, parts_to_delay_insert = 0", "RESET SETTING parts_to_throw_insert, parts_to_delay_insert")
	}},
	{"ClickHouse is read-only", ownClickHouse, func(r *run, dice *rand.Rand) {
		r.refuse(dice, "MODIFY SETTING table_readonly = 1", "MODIFY SETTING table_readonly = 0")
	}},
	{"ClickHouse fails before it applies", ownClickHouse, func(r *run, dice *rand.Rand) {
		defer r.hold("clickhouse")()
		const point = "compact_part_writer_fail_in_add_streams"
		r.sql("SYSTEM ENABLE FAILPOINT " + point)
		sleep(dice, time.Second, 3*time.Second)
		r.sql("SYSTEM DISABLE FAILPOINT " + point)
	}},
	{"ClickHouse applies and answers with an error", ownClickHouse, func(r *run, dice *rand.Rand) {
		// A view that is fed from a table fails when the table has its part already.
		r.watch(dice, "throwIf(offset >= 0, 'memory limit exceeded while pushing to a view', toInt16(241))")
	}},
	{"ClickHouse applies and answers late", ownClickHouse, func(r *run, dice *rand.Rand) { r.watch(dice, "sleep(3)") }},
	{"ClickHouse pauses between check and commit", ownClickHouse, func(r *run, dice *rand.Rand) {
		// A block passes the constraints, and then its part is written, with an index that takes longer than the lease.
		r.refuse(dice, "ADD INDEX IF NOT EXISTS slow (offset + sleep(3)) TYPE minmax", "DROP INDEX IF EXISTS slow")
	}},
	{"ClickHouse cut off", ownClickHouse, func(r *run, dice *rand.Rand) { r.breakClickHouseWire(harness.Cut, dice) }},
	{"ClickHouse silent", ownClickHouse, func(r *run, dice *rand.Rand) { r.breakClickHouseWire(harness.Silent, dice) }},
	{"ClickHouse's answers lost", ownClickHouse, func(r *run, dice *rand.Rand) { r.breakClickHouseWire(harness.Unanswered, dice) }},
	{"ClickHouse slow", ownClickHouse, func(r *run, dice *rand.Rand) { r.breakClickHouseWire(harness.Slow, dice) }},

	{"kill the registry", ownRegistry, func(r *run, dice *rand.Rand) {
		defer r.hold("registry")()
		r.c.Broken.RegistryNet.Set("", harness.Cut)
		r.c.Broken.Registry.Kill()
		sleep(dice, time.Second, 4*time.Second)
		r.c.Broken.RegistryNet.Set("", harness.Whole)
	}},
	{"the registry is down when a copy starts", ownRegistry, func(r *run, dice *rand.Rand) {
		copy := pick(dice, r.c.All())
		defer r.hold(copy.Name())() // before the server, as everywhere
		defer r.hold("registry")()
		r.c.Broken.RegistryNet.Set("", harness.Cut)
		r.excuse(func() {
			copy.Kill()
			copy.Start()
			sleep(dice, time.Second, 3*time.Second)
			r.c.Broken.RegistryNet.Set("", harness.Whole)
			copy.WaitReady()
		}, copy)
	}},
}

func pick[T any](dice *rand.Rand, all []T) T { return all[dice.IntN(len(all))] }

// sleep waits for a random time.
func sleep(dice *rand.Rand, least, most time.Duration) {
	time.Sleep(least + time.Duration(dice.Int64N(int64(most-least))))
}

// killCopy kills a copy, perhaps again while it starts, and starts it after a while or at once.
func (r *run) killCopy(copy *harness.Copy, dice *rand.Rand) {
	defer r.hold(copy.Name())()
	r.excuse(func() {
		for range 1 + dice.IntN(2) {
			copy.Kill()
			if dice.IntN(2) == 0 {
				sleep(dice, 0, 4*time.Second)
			}
			copy.Start()
			sleep(dice, 0, time.Second)
		}
		copy.WaitReady()
	}, copy)
}

// stopCopy stops a copy for longer than its session.
func (r *run) stopCopy(copy *harness.Copy, dice *rand.Rand) {
	defer r.hold(copy.Name())()
	r.excuse(func() {
		copy.Pause()
		sleep(dice, beyondSession, 5*time.Second)
		copy.Resume()
	}, copy)
}

// joinAndLeave has one more copy of a role for a while.
func (r *run) joinAndLeave(copy *harness.Copy, dice *rand.Rand) {
	defer r.hold(copy.Name())()
	copy.Start()
	sleep(dice, time.Second, 6*time.Second) // it may not be ready yet
	if dice.IntN(2) == 0 {
		copy.Kill()
	} else {
		copy.Stop()
	}
}

// breakKafkaWire breaks the way of one copy to Kafka.
func (r *run) breakKafkaWire(w harness.Wire, dice *rand.Rand) {
	copy := pick(dice, r.c.All())
	defer r.hold(copy.Name())()
	r.excuse(func() {
		r.c.Broken.KafkaNet.Set(copy.ClientID(), w)
		sleep(dice, time.Second, 6*time.Second)
		r.c.Broken.KafkaNet.Set(copy.ClientID(), harness.Whole)
	}, copy)
}

// breakClickHouseWire breaks the way of one copy to ClickHouse.
func (r *run) breakClickHouseWire(w harness.Wire, dice *rand.Rand) {
	copy := pick(dice, r.c.All())
	if dice.IntN(2) == 0 {
		copy = pick(dice, r.c.Sink)
	}
	defer r.hold(copy.Name())()
	copy.ClickHouseNet.Set("", w)
	sleep(dice, time.Second, 6*time.Second)
	copy.ClickHouseNet.Set("", harness.Whole)
}

// unsureCommits has kfake answer every third commit of a transaction with an error that says nothing of its fate. Where it is applied, another
// connection of "the same producer" gets it through.
func (r *run) unsureCommits(applied bool, dice *rand.Rand) {
	defer r.hold("kafka")()
	side, err := kgo.NewClient(r.c.Kafka...)
	if err != nil {
		r.t.Error(err)
		return
	}
	defer side.Close()
	var commits atomic.Int32
	r.c.Broken.Broker.Control(func(fake *kfake.Cluster, req kmsg.Request) (kmsg.Response, error, bool) {
		end, ok := req.(*kmsg.EndTxnRequest)
		if !ok || !end.Commit || commits.Add(1)%3 != 0 {
			return nil, nil, false
		}
		if applied {
			again := *end
			fake.SleepControl(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				_, _ = again.RequestWith(ctx, side) // passes this function as the next commit; where it fails, the commit is not applied
			})
		}
		answer := end.ResponseKind().(*kmsg.EndTxnResponse)
		answer.ErrorCode = kerr.UnknownServerError.Code
		return answer, nil, true
	})
	sleep(dice, 2*time.Second, 4*time.Second)
	r.c.Broken.Broker.Control(nil)
}

// noCoordinator has kfake answer a share of what goes to coordinators with the errors of one that moves or loads.
func (r *run) noCoordinator(dice *rand.Rand) {
	defer r.hold("kafka")()
	code := pick(dice, []*kerr.Error{kerr.NotCoordinator, kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable}).Code
	share := uint32(2 + dice.IntN(4))
	var n atomic.Uint32
	r.c.Broken.Broker.Control(func(_ *kfake.Cluster, req kmsg.Request) (kmsg.Response, error, bool) {
		resp := req.ResponseKind()
		switch resp := resp.(type) {
		case *kmsg.HeartbeatResponse:
			resp.ErrorCode = code
		case *kmsg.JoinGroupResponse:
			resp.ErrorCode = code
		case *kmsg.SyncGroupResponse:
			resp.ErrorCode = code
		case *kmsg.InitProducerIDResponse:
			resp.ErrorCode = code
		case *kmsg.EndTxnResponse:
			resp.ErrorCode = code
		case *kmsg.OffsetCommitResponse:
			for _, t := range req.(*kmsg.OffsetCommitRequest).Topics {
				topic := kmsg.OffsetCommitResponseTopic{Topic: t.Topic, TopicID: t.TopicID}
				for _, p := range t.Partitions {
					topic.Partitions = append(topic.Partitions, kmsg.OffsetCommitResponseTopicPartition{Partition: p.Partition, ErrorCode: code})
				}
				resp.Topics = append(resp.Topics, topic)
			}
		default:
			return nil, nil, false
		}
		return resp, nil, n.Add(1)%share == 0
	})
	sleep(dice, 2*time.Second, 4*time.Second)
	r.c.Broken.Broker.Control(nil)
}

// loseOffsets stops all copies, and one group of ours forgets where it was. No copy starts then; `counterfoil adopt --offsets` finds the positions
// in the outcomes and the tables.
func (r *run) loseOffsets(dice *rand.Rand) {
	group := pick(dice, groups)
	r.standStill(dice, func() {
		r.eventually("delete the offsets of "+group, func(ctx context.Context) error { // members that were killed are in it until their sessions are over
			client, err := kgo.NewClient(r.c.Kafka...)
			if err != nil {
				return err
			}
			defer client.Close()
			if _, err = kadm.NewClient(client).DeleteGroup(ctx, group); errors.Is(err, kerr.GroupIDNotFound) {
				return nil
			}
			return err
		})
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
		defer cancel()
		if out, err := harness.TryRun(ctx, harness.Binary(r.t), r.c.Settings(), "", "process"); err == nil || !strings.Contains(err.Error(), "adopt --offsets") {
			r.t.Errorf("a role runs though the offsets of %s are gone: %s %v", group, out, err)
		}
		r.adoptOffsets(group)
	})
}

var groups = []string{schemas.GroupUpserts, schemas.GroupValidation, schemas.GroupMatching, schemas.GroupRequests, schemas.GroupSink}

// standStill stops or kills all copies, does something on servers that nothing breaks meanwhile, and starts the copies again.
func (r *run) standStill(dice *rand.Rand, do func()) {
	for _, copy := range append(r.c.All(), r.extraProcess, r.extraSink) { // always in this order
		defer r.hold(copy.Name())()
	}
	for _, server := range []string{"clickhouse", "kafka", "registry"} {
		defer r.hold(server)()
	}
	r.excuse(func() {
		var ending sync.WaitGroup
		for _, copy := range r.c.All() {
			if dice.IntN(2) == 0 {
				ending.Go(copy.Kill)
			} else {
				ending.Go(copy.Stop)
			}
		}
		ending.Wait()
		do()
		for _, copy := range r.c.All() {
			copy.Start()
		}
		for _, copy := range r.c.All() {
			copy.WaitReady()
		}
	}, r.c.Ingest...)
}

// adoptOffsets is what an operator does about lost offsets, of some groups.
func (r *run) adoptOffsets(lost ...string) {
	tries := 0 // one that failed may have done it
	r.eventually("adopt lost offsets", func(context.Context) error {
		ctx, cancel := context.WithTimeout(r.t.Context(), 3*time.Minute) // it reads all that was ever judged
		defer cancel()
		out, err := harness.TryRun(ctx, harness.Binary(r.t), r.c.Settings(), "", "adopt", "--offsets", "--yes")
		tries++
		for _, group := range lost {
			if err == nil && tries == 1 && !strings.Contains(out, group) {
				r.t.Errorf("adopt does not speak of %s: %s", group, out)
			}
		}
		return err
	})
}

// killKafka kills the broker and starts it again. An Apache Kafka that comes back without the offsets of a group, though they are in its log (it has
// been seen to, on a machine with far too much to do), needs an operator, as the roles and doctor say.
func (r *run) killKafka(dice *rand.Rand) {
	var lost []string
	func() {
		defer r.hold("kafka")()
		before := r.committed()
		killed := time.Now()
		r.excuse(func() {
			r.c.Broken.Broker.Kill()
			sleep(dice, 0, 3*time.Second)
			r.c.Broken.Broker.Start()
		}, r.c.Ingest...)
		after := r.committed()
		lost = slices.DeleteFunc(before, func(group string) bool { return slices.Contains(after, group) })
		if len(lost) > 0 { // then lag fails, which does not know how far the group is
			return
		}
		if left := r.leftBehind(killed); len(left) > 0 {
			r.t.Errorf("Kafka forgot the markers in %v", left)
		}
	}()
	if len(lost) == 0 {
		return
	}
	r.t.Logf("KAFKA FORGOT the offsets of %v", lost)
	if r.have&apache == 0 {
		r.t.Error("only Apache Kafka has been seen to forget anything")
	}
	r.standStill(dice, func() { r.adoptOffsets(lost...) })
}

// lag is what counterfoil lag says.
type lag struct {
	Partitions []struct {
		Group     string `json:"group"`
		Topic     string `json:"topic"`
		Partition int32  `json:"partition"`
		Records   int64  `json:"records"`
	} `json:"partitions"`
	Transactions []struct {
		ID         string   `json:"id"`
		Seconds    float64  `json:"seconds"`
		LeftBehind bool     `json:"left_behind"`
		Partitions []string `json:"partitions"`
	} `json:"transactions"`
}

func (r *run) tryLag(ctx context.Context) (*lag, error) {
	out, err := harness.TryRun(ctx, harness.Binary(r.t), r.c.Settings(), "", "lag", "--json", "--all", "--window", "0")
	if err != nil {
		return nil, err
	}
	said := new(lag)
	return said, json.Unmarshal([]byte(out), said)
}

func (r *run) lag(ctx context.Context) *lag {
	r.t.Helper()
	said, err := r.tryLag(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	return said
}

// committed are those of our groups that have committed offsets. Kafka keeps all of a group in one place.
func (r *run) committed() (all []string) {
	r.eventually("read committed offsets", func(ctx context.Context) error {
		client, err := kgo.NewClient(r.c.Kafka...)
		if err != nil {
			return err
		}
		defer client.Close()
		all = nil
		for _, group := range groups {
			offsets, err := kadm.NewClient(client).FetchOffsets(ctx, group)
			if err != nil {
				return err
			}
			if len(offsets.Offsets()) > 0 {
				all = append(all, group)
			}
		}
		return nil
	})
	return all
}

// replay puts what was left unprocessed lately through again, and is perhaps killed meanwhile. It may give up beside another fault, but not leave
// its work half done.
func (r *run) replay(dice *rand.Rand) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	if dice.IntN(2) == 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(dice.Int64N(int64(8*time.Second))))
		defer cancel()
	}
	_, err := harness.TryRun(ctx, harness.Binary(r.t), r.c.Settings(), "", "replay", "--since", "5s", "--limit", "1000000", "--most", "0")
	r.t.Logf("counterfoil replay: %v", err)                                         // most of what is open stays so, which is an exit code as well
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.ExitCode() == 2 { // wrong usage, or a panic
		r.t.Error("counterfoil replay broke off")
	}
}

// outOfMemory starts ClickHouse again with less memory than it has in use by then, and again with enough.
func (r *run) outOfMemory(dice *rand.Rand) {
	defer r.hold("clickhouse")()
	dir := filepath.Join(r.c.Broken.ClickHouse.Dir, "config.d")
	path := filepath.Join(dir, "memory.xml")
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte("<clickhouse><max_server_memory_usage>250000000</max_server_memory_usage></clickhouse>\n"), 0o644)
	}
	if err != nil {
		r.t.Error(err)
		return
	}
	r.c.Broken.ClickHouse.Kill()
	sleep(dice, 2*time.Second, 4*time.Second)
	if err := os.Remove(path); err != nil {
		r.t.Error(err)
	}
	r.c.Broken.ClickHouse.Kill()
}

// refuse alters some log tables for a while.
func (r *run) refuse(dice *rand.Rand, begin, end string) {
	defer r.hold("clickhouse")()
	tables := someTables(dice)
	for _, table := range tables {
		r.sql(fmt.Sprintf("ALTER TABLE `%s` %s", table, begin))
	}
	sleep(dice, time.Second, 4*time.Second)
	for _, table := range tables {
		r.sql(fmt.Sprintf("ALTER TABLE `%s` %s", table, end))
	}
}

// watch feeds a view from some log tables for a while, which computes an expression for each block.
func (r *run) watch(dice *rand.Rand, expression string) {
	defer r.hold("clickhouse")()
	tables := someTables(dice)
	for _, table := range tables {
		r.sql(fmt.Sprintf("CREATE MATERIALIZED VIEW IF NOT EXISTS `watch_%[1]s` (offset Int64, x UInt8) ENGINE = Null AS SELECT offset, %[2]s AS x FROM `%[1]s` SETTINGS allow_custom_error_code_in_throwif = 1",
			table, expression))
	}
	sleep(dice, time.Second, 4*time.Second)
	for _, table := range tables {
		r.sql(fmt.Sprintf("DROP VIEW IF EXISTS `watch_%s`", table))
	}
}

// someTables draws one to three of the busiest log tables.
func someTables(dice *rand.Rand) []string {
	all := []string{"ownership", "customer_events", "unprocessed", "sales", "batches"}
	dice.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:1+dice.IntN(3)]
}

// named are the faults of a deck whose names have a part, all for "", or do not have it, for "!part", and of these only those whose needs are met.
func named(deck []fault, part string, have need) (all []fault) {
	part, without := strings.CutPrefix(part, "!")
	for _, f := range deck {
		if f.needs&^have == 0 && strings.Contains(f.name, part) != without {
			all = append(all, f)
		}
	}
	return all
}

// The seeds of CI play every fault of the catalogue: half of them on kfake and the other on Apache Kafka, and all of them what one broker can do.
func TestHandsHaveTheWholeCatalogue(t *testing.T) {
	const others = ownKafka | ownRegistry | ownClickHouse
	names := func(deck []fault) []string {
		var all []string
		for _, f := range deck {
			all = append(all, f.name)
		}
		slices.Sort(all)
		return all
	}
	// played are the faults of some hands on a broker.
	played := func(seeds []uint64, broker need) (all []fault) {
		for _, seed := range seeds {
			hand, rest := deal(seed)
			if diff := cmp.Diff(names(catalogue), names(slices.Concat(hand, rest))); diff != "" {
				t.Errorf("seed %d: catalogue (-), deck (+)\n%s", seed, diff)
			}
			all = append(all, named(hand, "", others|broker)...)
		}
		return all
	}
	for first := uint64(0); first < 100*hands; first += hands {
		kfake, kafka := []uint64{first, first + 1}, []uint64{first + 2, first + 3}
		all := append(played(kfake, fake), played(kafka, apache)...)
		if diff := cmp.Diff(names(catalogue), names(all)); diff != "" {
			t.Errorf("seeds %v on kfake and %v on Apache Kafka: catalogue (-), played (+)\n%s", kfake, kafka, diff)
		}
		for _, broker := range []need{fake, apache} {
			if diff := cmp.Diff(names(named(catalogue, "", others|broker)), names(played(append(kfake, kafka...), broker))); diff != "" {
				t.Errorf("seeds from %d on one broker: what it can do (-), played (+)\n%s", first, diff)
			}
		}
	}
}
