package main

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/counterfoil/counterfoil/cmd/embedded"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
	"github.com/counterfoil/counterfoil/test/stack"
)

// clinic is an installation that migrate has prepared, with one key.
type clinic struct {
	*tools
	ch       *stack.CH
	database string
	adm      *kadm.Client
	ahead    time.Duration // of our clock
}

func newClinic(t *testing.T) *clinic {
	t.Helper()
	broker, url, ch := stack.Fake(t), stack.FakeRegistry(t), stack.ClickHouse(t)
	c := &clinic{tools: &tools{broker: broker}, ch: ch, database: ch.Database(t)}
	c.environ = []string{
		"KAFKA_BROKERS=" + strings.Join(broker.Addrs, ","), "SCHEMA_REGISTRY_URL=" + url, "CLICKHOUSE_ADDR=" + ch.Addr, "CLICKHOUSE_DATABASE=" + c.database,
		"TOPIC_PARTITIONS=2", "TOKEN_SECRETS=x7Qp2mV9cT4kL8wZ",
	}
	var err error
	c.client, err = kgo.NewClient(append(broker.Opts(), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.client.Close)
	c.adm = kadm.NewClient(c.client)
	if c.registry, err = schemas.NewRegistry(schemas.RegistryConfig{URL: []string{url}}, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	c.migrate(t)
	c.good(t, "", "keys", "create", "--tenant", "acme")
	c.keysRead(t)
	return c
}

// examine runs the doctor and returns what is not well, by check.
func (c *clinic) examine(t *testing.T, extra ...string) (*diagnosis, map[string]finding) {
	t.Helper()
	cfg, err := loadConfig(append(slices.Clone(c.environ), extra...))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d := &doctor{cfg: cfg, now: func() time.Time { return time.Now().Add(c.ahead) }}
	r := d.examine(ctx)
	ill := map[string]finding{}
	for _, f := range r.Checks {
		if f.Status != statusOK {
			ill[f.Check] = f
		}
	}
	return r, ill
}

// set changes a setting of a topic.
func (c *clinic) set(topic, name, value string) func(*testing.T) {
	return func(t *testing.T) {
		t.Helper()
		_, err := c.adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: name, Value: &value}}, topic)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// setBroker changes a setting of the broker.
func (c *clinic) setBroker(name, value string) func(*testing.T) {
	return func(t *testing.T) {
		t.Helper()
		_, err := c.adm.AlterBrokerConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: name, Value: &value}})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// sql runs statements in which DB is the database.
func (c *clinic) sql(statements ...string) func(*testing.T) {
	return func(t *testing.T) {
		t.Helper()
		for _, s := range statements {
			c.ch.Exec(t, strings.ReplaceAll(s, "DB", c.database))
		}
	}
}

// commitAt commits an offset of a group.
func (c *clinic) commitAt(group, topic string, partition int32, at int64) func(*testing.T) {
	return func(t *testing.T) {
		t.Helper()
		offsets := kadm.Offsets{}
		offsets.Add(kadm.Offset{Topic: topic, Partition: partition, At: at, LeaderEpoch: -1})
		c.commit(t, group, offsets)
	}
}

// keysRead commits what the sink would, once it has read the keys.
func (c *clinic) keysRead(t *testing.T) {
	t.Helper()
	ends, err := c.adm.ListEndOffsets(t.Context(), schemas.APIKeys)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	c.commit(t, schemas.GroupSink, ends.Offsets())
}

// recreate creates a topic that was deleted anew, with positions of its group at its start.
func (c *clinic) recreate(t *testing.T, name, group string) {
	t.Helper()
	topic, _ := schemas.TopicNamed(name)
	var configs []string
	for k, v := range topic.Config {
		configs = append(configs, k, v)
	}
	c.broker.CreateTopic(t, name, 2, configs...)
	for p := range int32(2) {
		c.commitAt(group, name, p, 0)(t)
	}
}

func (c *clinic) migrate(t *testing.T) {
	t.Helper()
	cfg, err := loadConfig(c.environ)
	if err != nil {
		t.Fatal(err)
	}
	if err := migrate(t.Context(), cfg, slog.New(slog.DiscardHandler), io.Discard, false); err != nil {
		t.Fatal(err)
	}
}

// later sets our clock ahead.
func (c *clinic) later(by time.Duration) func(*testing.T) {
	return func(*testing.T) { c.ahead = by }
}

func steps(all ...func(*testing.T)) func(*testing.T) {
	return func(t *testing.T) {
		t.Helper()
		for _, f := range all {
			f(t)
		}
	}
}

// TestDoctorNamesMisconfigurations plants one after the other into one installation, and takes each out again where that can be. Whatever
// it names beyond what is expected is a false alarm.
func TestDoctorNamesMisconfigurations(t *testing.T) {
	c := newClinic(t)
	r, ill := c.examine(t)
	if diff := cmp.Diff([]string{"topics.replication"}, slices.Sorted(maps.Keys(ill))); diff != "" {
		t.Fatalf("a fresh installation on one broker: %s\n%+v", diff, ill)
	}
	if r.Failures != 0 || r.Warnings != 1 || holds(r) != "kept once tables running apart" {
		t.Errorf("a fresh installation: %d failures, %d warnings, %q hold", r.Failures, r.Warnings, holds(r))
	}
	if out := c.good(t, "", "doctor"); !strings.Contains(out, "ok         kafka.settings") || !strings.Contains(out, "  yes      Every item gets exactly one outcome") {
		t.Errorf("a fresh installation:\n%s", out)
	}
	var open *kgo.Client
	var key string
	sale := func(t *testing.T) { c.produce(t, c.client, schemas.KindSales, 1, "waits") }
	// What waits is read before the next case: this test may take longer than a record may wait.
	salesRead := func(to int64) func(*testing.T) { return c.commitAt(schemas.GroupMatching, schemas.KindSales, 1, to) }
	clock := map[string]string{"clickhouse.clock": statusWarning, "groups.lag": statusWarning}
	for _, p := range []struct {
		name  string
		plant func(*testing.T)
		env   []string
		want  map[string]string // statuses by check, beside the one broker
		says  []string          // of the first check of want, by name, that fails; else of any
		broke string            // promises that do not hold beside power
		undo  func(*testing.T)
	}{
		{name: "retention of a week", plant: c.set("sales", "retention.ms", "604800000"), want: map[string]string{"topics.retention": statusWarning},
			says: []string{"topic sales", "168h0m0s", "retention.ms=-1"}},
		{name: "retention, and a record that has waited for more than half of it", plant: steps(sale, c.later(4*24*time.Hour)),
			want: with(clock, "topics.retention", statusFailure), says: []string{"topic sales", "96h0m"}, broke: "kept running",
			undo: steps(c.later(0), salesRead(1), c.set("sales", "retention.ms", "-1"))},
		{name: "retention of an hour", plant: c.set("calls", "retention.ms", "3600000"), want: map[string]string{"topics.retention": statusFailure},
			says: []string{"topic calls"}, broke: "kept", undo: c.set("calls", "retention.ms", "-1")},
		{name: "retention by size", plant: c.set("batches", "retention.bytes", "1000000"), want: map[string]string{"topics.retention": statusWarning},
			says: []string{"topic batches", "1,000,000"}, undo: c.set("batches", "retention.bytes", "-1")},
		{name: "a log that is compacted", plant: c.set("ownership", "cleanup.policy", "compact"), want: map[string]string{"topics.cleanup": statusFailure},
			says: []string{"topic ownership", "compact, not delete"}, broke: "kept", undo: c.set("ownership", "cleanup.policy", "delete")},
		{name: "a reference that is deleted by age", plant: c.set("accounts", "cleanup.policy", "compact,delete"), want: map[string]string{"topics.cleanup": statusFailure},
			says: []string{"topic accounts"}, broke: "kept", undo: c.set("accounts", "cleanup.policy", "compact")},
		{name: "producers' timestamps", plant: c.set("calls", "message.timestamp.type", "CreateTime"), want: map[string]string{"topics.timestamps": statusFailure},
			says: []string{"topic calls", "CreateTime, not LogAppendTime"}, broke: "once tables", undo: c.set("calls", "message.timestamp.type", "LogAppendTime")},
		{name: "timestamps of a reference's producers", plant: c.set("accounts", "message.timestamp.type", "CreateTime"), want: map[string]string{"topics.timestamps": statusWarning},
			says: []string{"topic accounts", "CreateTime, not LogAppendTime"}, undo: c.set("accounts", "message.timestamp.type", "LogAppendTime")},
		{name: "tombstones that are soon deleted", plant: c.set("units", "delete.retention.ms", "86400000"), want: map[string]string{"topics.retention": statusWarning},
			says: []string{"topic units: tombstones are deleted after 24h0m0s", "delete.retention.ms=2419200000"}, undo: c.set("units", "delete.retention.ms", "2419200000")},
		{name: "a tombstone that waits for more than half of its time", plant: steps(func(t *testing.T) { c.produce(t, c.client, schemas.Units, 0, "waits") }, c.later(15*24*time.Hour)),
			want: with(clock, "topics.retention", statusFailure), says: []string{"topic units", "672h0m0s", "360h0m"}, broke: "kept running",
			undo: steps(c.later(0), c.commitAt(schemas.GroupSink, schemas.Units, 0, 1))},
		{name: "a size limit that is too low", plant: c.set("sales.processed", "max.message.bytes", "1000000"), want: map[string]string{"topics.size": statusFailure},
			says: []string{"topic sales.processed", "4194304"}, broke: "running", undo: c.set("sales.processed", "max.message.bytes", "4194304")},
		{name: "a size limit that is too high", plant: c.set("sales", "max.message.bytes", "9000000"), want: map[string]string{"topics.size": statusWarning},
			says: []string{"topic sales:"}, undo: c.set("sales", "max.message.bytes", "1114112")},
		{name: "a size limit of a reference that is too high", plant: c.set("customers", "max.message.bytes", "4194304"), want: map[string]string{"topics.size": statusWarning},
			says: []string{"topic customers:"}, undo: c.set("customers", "max.message.bytes", "1114112")},
		{name: "a lost commit", plant: func(t *testing.T) {
			gone := kadm.TopicsSet{}
			gone.Add(schemas.KindSales, 0)
			if _, err := c.adm.DeleteOffsets(t.Context(), schemas.GroupMatching, gone); err != nil {
				t.Fatal(err)
			}
		}, want: map[string]string{"groups.offsets": statusFailure}, says: []string{"counterfoil-matching lost its offset of topic sales partition 0"}, broke: "kept once"},
		{name: "a commit beyond the log", plant: c.commitAt(schemas.GroupMatching, schemas.KindSales, 0, 99), want: map[string]string{"groups.offsets": statusFailure},
			says: []string{"at offset 99 of topic sales partition 0, and the log has 0 to 0"}, broke: "kept once", undo: c.commitAt(schemas.GroupMatching, schemas.KindSales, 0, 0)},
		{name: "a missing schema", plant: func(t *testing.T) {
			for _, how := range []sr.DeleteHow{sr.SoftDelete, sr.HardDelete} {
				if _, err := c.registry.Client().DeleteSubject(t.Context(), schemas.Subject(schemas.KindReferrals), how); err != nil {
					t.Fatal(err)
				}
			}
		}, want: map[string]string{"registry": statusFailure}, says: []string{"topic referrals is not registered", "counterfoil migrate"}, broke: "running", undo: c.migrate},
		{name: "an incompatible schema", plant: func(t *testing.T) {
			alien := sr.Schema{Type: sr.TypeAvro, Schema: `{"type":"record","name":"Alien","fields":[{"name":"green","type":"string"}]}`}
			if _, err := c.registry.Client().CreateSchema(t.Context(), schemas.Subject(schemas.KindSales), alien); err != nil {
				t.Fatal(err)
			}
		}, want: map[string]string{"registry": statusFailure}, says: []string{"sales-value: version 2"}, broke: "running", undo: func(t *testing.T) {
			if err := c.registry.Client().DeleteSchema(t.Context(), schemas.Subject(schemas.KindSales), 2, sr.SoftDelete); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "a dropped constraint", plant: c.sql("ALTER TABLE DB.unprocessed DROP CONSTRAINT in_time"), want: map[string]string{"clickhouse.constraints": statusFailure},
			says: []string{"table unprocessed lacks the constraint in_time"}, broke: "tables"},
		{name: "a constraint that refuses nothing", plant: c.sql("ALTER TABLE DB.unprocessed ADD CONSTRAINT in_time CHECK write_by > 0"), want: map[string]string{"clickhouse.constraints": statusFailure},
			says: []string{"table unprocessed lacks"}, broke: "tables",
			undo: c.sql("ALTER TABLE DB.unprocessed DROP CONSTRAINT in_time", "ALTER TABLE DB.unprocessed ADD CONSTRAINT in_time CHECK write_by > nowInBlock64(3)")},
		{name: "a partitioned table", plant: c.sql("RENAME TABLE DB.referrals TO DB.kept",
			"CREATE TABLE DB.referrals AS DB.kept ENGINE = MergeTree PARTITION BY kind ORDER BY tenant SETTINGS fsync_after_insert = 1"),
			want: map[string]string{"clickhouse.partitioning": statusFailure}, says: []string{"table referrals is partitioned by kind"}, broke: "tables",
			undo: c.sql("DROP TABLE DB.referrals SYNC", "RENAME TABLE DB.kept TO DB.referrals")},
		{name: "no fsync", plant: c.sql("ALTER TABLE DB.sales MODIFY SETTING fsync_after_insert = 0"), want: map[string]string{"clickhouse.durability": statusWarning},
			says: []string{"table sales may lose acknowledged rows"}, undo: c.sql("ALTER TABLE DB.sales MODIFY SETTING fsync_after_insert = 1")},
		{name: "a missing migration", plant: c.sql("ALTER TABLE DB.migrations DELETE WHERE number = 2 SETTINGS mutations_sync = 1"),
			want: map[string]string{"clickhouse.migrations": statusFailure}, says: []string{"lacks migration 0002_views"}, broke: "tables running", undo: c.migrate},
		{name: "a missing table", plant: c.sql("RENAME TABLE DB.transactions TO DB.kept"), want: map[string]string{"clickhouse.migrations": statusFailure},
			says: []string{"table transactions is gone"}, broke: "tables running", undo: c.sql("RENAME TABLE DB.kept TO DB.transactions")},
		{name: "an epoch that was not recorded", plant: c.sql("ALTER TABLE DB.topic_epochs DELETE WHERE topic = 'calls' SETTINGS mutations_sync = 1"),
			want: map[string]string{"topics.ids": statusFailure}, says: []string{"does not know topic calls"}, broke: "running", undo: c.migrate},
		{name: "clocks that disagree", plant: c.later(35 * time.Second), want: map[string]string{"clickhouse.clock": statusWarning}, says: []string{"from ours: instants in its rows disagree"}, undo: c.later(0)},
		{name: "a record that waits", plant: steps(sale, c.later(10*time.Minute)), want: clock, says: []string{"counterfoil-matching: in topic sales partition 1, which no copy of the role owns, offset 1 waits"},
			broke: "running", undo: steps(c.later(0), salesRead(2))},
		{name: "a transaction that nobody ends", plant: func(t *testing.T) {
			open = c.beginTransaction(t, "upstream-1", schemas.KindOwnership, 0)
			c.ahead = 2 * time.Minute
		}, want: with(clock, "transactions", statusFailure), says: []string{"transaction upstream-1", "Ongoing", "ownership/0@0"}, broke: "running", undo: func(t *testing.T) {
			c.ahead = 0
			if err := open.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
				t.Fatal(err)
			}
			c.commitAt(schemas.GroupUpserts, schemas.KindOwnership, 0, 2)(t) // past the marker
		}},
		{name: "no key", plant: func(t *testing.T) {
			key = lines[keyJSON](t, c.good(t, "", "keys", "list", "--json"))[0].ID
			c.good(t, "", "keys", "disable", key)
		}, want: map[string]string{"keys": statusWarning}, says: []string{"no API key is enabled"}, undo: func(t *testing.T) {
			c.good(t, "", "keys", "enable", key)
			c.keysRead(t)
		}},
		{name: "a short secret", env: []string{"TOKEN_SECRETS=x7Qp2mV9cT4kL8wZ,x7Qp2mV9"}, want: map[string]string{"token_secrets": statusFailure}, says: []string{"secret 2"}, broke: "apart"},
		{name: "a poor secret", env: []string{"TOKEN_SECRETS=abababababababababab"}, want: map[string]string{"token_secrets": statusFailure}, says: []string{"only 2 different"}, broke: "apart"},
		{name: "a secret from a page", env: []string{"TOKEN_SECRETS=change-me-to-a-long-value"}, want: map[string]string{"token_secrets": statusWarning}, says: []string{"change-me"}},
		{name: "no secret", env: []string{"TOKEN_SECRETS="}, want: map[string]string{"token_secrets": statusWarning}, says: []string{"not set"}},
		{name: "a session that the broker refuses", env: []string{"SESSION_TIMEOUT=1h"}, want: map[string]string{"kafka.settings": statusFailure}, says: []string{"group.max.session.timeout.ms"}, broke: "running"},
		{name: "a session that is too short for the broker", env: []string{"SINK_SESSION_TIMEOUT=500ms"}, want: map[string]string{"kafka.settings": statusFailure}, says: []string{"group.min.session.timeout.ms"}, broke: "running"},
		{name: "a transaction timeout that the broker refuses", env: []string{"TRANSACTION_TIMEOUT=1h"}, want: map[string]string{"kafka.settings": statusFailure}, says: []string{"transaction.max.timeout.ms"}, broke: "running"},
		{name: "offsets that are soon forgotten", plant: c.setBroker("offsets.retention.minutes", "60"), want: map[string]string{"kafka.settings": statusWarning}, says: []string{"offsets.retention.minutes is 1h"},
			undo: c.setBroker("offsets.retention.minutes", "52560000")},
		// What follows cannot be taken out again.
		{name: "another number of partitions", plant: func(t *testing.T) {
			if _, err := c.adm.CreatePartitions(t.Context(), 1, schemas.KindTransactions); err != nil {
				t.Fatal(err)
			}
		}, want: map[string]string{"topics": statusFailure, "groups.offsets": statusFailure}, says: []string{"topic transactions has 3 partitions, it must have 2"}, broke: "kept once running"},
		{name: "a missing topic", plant: func(t *testing.T) {
			if _, err := c.adm.DeleteTopics(t.Context(), schemas.KindTransactions); err != nil {
				t.Fatal(err)
			}
		}, want: map[string]string{"topics": statusFailure}, says: []string{"topic transactions does not exist"}, broke: "kept running"},
		{name: "a topic that was created anew", plant: func(t *testing.T) { c.recreate(t, schemas.KindTransactions, schemas.GroupValidation) }, want: map[string]string{"topics.ids": statusFailure}, says: []string{"topic transactions has id"}, broke: "once tables"},
	} {
		t.Run(p.name, func(t *testing.T) {
			if p.plant != nil {
				p.plant(t)
			}
			if p.undo != nil {
				defer p.undo(t)
			}
			r, ill := c.examine(t, p.env...)
			got := map[string]string{}
			var said strings.Builder
			for name, f := range ill {
				if name == "topics.replication" {
					continue
				}
				got[name] = f.Status
				for _, x := range f.Problems {
					if said.WriteString(x.What + " " + x.Do + "\n"); x.Do == "" {
						t.Errorf("%s says %q and not what to do", name, x.What)
					}
				}
			}
			if diff := cmp.Diff(p.want, got); diff != "" {
				t.Errorf("checks: %s\n%s", diff, said.String())
			}
			for _, text := range p.says {
				if !strings.Contains(said.String(), text) {
					t.Errorf("it does not say %q: %s", text, said.String())
				}
			}
			if broke := broken(r); broke != p.broke {
				t.Errorf("broken promises: %q, not %q", broke, p.broke)
			}
		})
	}
}

// TestDoctorOnBrokersOfItsOwn looks at clusters that a test cannot make out of the one broker.
func TestDoctorOnBrokersOfItsOwn(t *testing.T) {
	for _, c := range []struct {
		name    string
		opts    []kfake.Opt
		brokers int
		configs []string
		check   string
		want    string // status
		says    []string
	}{
		{name: "three brokers, as migrate makes topics", brokers: 3, configs: []string{"min.insync.replicas", "2"}, check: "topics.replication", want: statusOK},
		{name: "one copy acknowledges", brokers: 3, configs: []string{"min.insync.replicas", "1"}, check: "topics.replication", want: statusWarning,
			says: []string{"topic sales: min.insync.replicas is 1"}},
		{name: "all copies acknowledge", brokers: 3, configs: []string{"min.insync.replicas", "3"}, check: "topics.replication", want: statusWarning,
			says: []string{"min.insync.replicas is 3 of 3 copies"}},
		{name: "unclean election", brokers: 3, configs: []string{"min.insync.replicas", "2", "unclean.leader.election.enable", "true"}, check: "topics.replication",
			want: statusFailure, says: []string{"topic sales: an unclean election throws acknowledged records away"}},
		{name: "Kafka without fenced commits", brokers: 1, opts: []kfake.Opt{kfake.MaxVersions(kversion.V2_4_0())}, check: "kafka", want: statusFailure,
			says: []string{"broker 0 is older than Kafka 2.5", "transaction.version is 0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cluster, err := embedded.NewKafka(append(slices.Clone(c.opts), kfake.NumBrokers(c.brokers))...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(cluster.Close)
			client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(client.Close)
			configs := map[string]*string{}
			for i := 0; i < len(c.configs); i += 2 {
				configs[c.configs[i]] = &c.configs[i+1]
			}
			if _, err := kadm.NewClient(client).CreateTopic(t.Context(), 1, int16(c.brokers), configs, schemas.KindSales); err != nil {
				t.Fatal(err)
			}
			cfg, err := loadConfig([]string{"KAFKA_BROKERS=" + strings.Join(cluster.ListenAddrs(), ","), "CLICKHOUSE_ADDR=127.0.0.1:1", "SCHEMA_REGISTRY_URL=http://127.0.0.1:1"})
			if err != nil {
				t.Fatal(err)
			}
			r := (&doctor{cfg: cfg, now: time.Now}).examine(t.Context())
			f := r.Checks[slices.IndexFunc(r.Checks, func(f finding) bool { return f.Check == c.check })]
			if f.Status != c.want {
				t.Errorf("%+v", f)
			}
			var said strings.Builder
			for _, p := range f.Problems {
				said.WriteString(p.What + "\n")
			}
			for _, text := range c.says {
				if !strings.Contains(said.String(), text) {
					t.Errorf("it does not say %q: %s", text, said.String())
				}
			}
		})
	}
}

// TestDoctorOnANode judges what a node says, where no test can have such a server.
func TestDoctorOnANode(t *testing.T) {
	good := clickhouse.NodeState{Addr: "ch-1:9000", Version: "26.7", BlockTime: true}
	with := func(change func(*clickhouse.NodeState)) clickhouse.NodeState {
		n := good
		change(&n)
		return n
	}
	for _, c := range []struct {
		name  string
		nodes []clickhouse.NodeState
		check func(*doctor, context.Context) (string, []problem, error)
		want  []string // statuses
	}{
		{"a good node", []clickhouse.NodeState{good}, (*doctor).checkClickHouse, nil},
		{"no nowInBlock64", []clickhouse.NodeState{with(func(n *clickhouse.NodeState) { n.BlockTime = false })},
			(*doctor).checkClickHouse, []string{""}},
		{"two versions", []clickhouse.NodeState{good, with(func(n *clickhouse.NodeState) { n.Version = "26.8" })},
			(*doctor).checkClickHouse, []string{statusWarning}},
		{"async_insert", []clickhouse.NodeState{with(func(n *clickhouse.NodeState) { n.AsyncInsert = true })},
			(*doctor).checkAsyncInsert, []string{""}},
		{"nodes two seconds apart", []clickhouse.NodeState{good, with(func(n *clickhouse.NodeState) { n.Ahead = -2 * time.Second })},
			(*doctor).checkClock, []string{""}},
		{"two seconds that a slow answer explains", []clickhouse.NodeState{good, with(func(n *clickhouse.NodeState) { n.Ahead, n.RoundTrip = -2*time.Second, 4*time.Second })},
			(*doctor).checkClock, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := loadConfig(nil)
			if err != nil {
				t.Fatal(err)
			}
			_, problems, err := c.check(&doctor{cfg: cfg, nodes: c.nodes}, t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range problems {
				got = append(got, p.Status)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s\n%+v", diff, problems)
			}
		})
	}
}

// TestDoctorAsACommand reaches nobody, and says so.
func TestDoctorAsACommand(t *testing.T) {
	x := &tools{environ: []string{"KAFKA_BROKERS=127.0.0.1:1", "CLICKHOUSE_ADDR=127.0.0.1:1", "SCHEMA_REGISTRY_URL=http://127.0.0.1:1", "TOKEN_SECRETS=x7Qp2mV9cT4kL8wZ"}}
	code, out, errs := x.call(t, "", "doctor", "--json")
	r := lines[diagnosis](t, out)[0]
	if code != 1 || r.Failures != 3 || !strings.Contains(errs, "3 of ") {
		t.Errorf("exit code %d, %d failures, %s", code, r.Failures, errs)
	}
	got := map[string]string{}
	for _, f := range r.Checks {
		if f.Status != statusUnchecked {
			got[f.Check] = f.Status
		}
	}
	want := map[string]string{"kafka": statusFailure, "registry": statusFailure, "clickhouse": statusFailure, "token_secrets": statusOK}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if verdicts(&r, "yes") != "apart" || verdicts(&r, "unknown") != "kept once power" {
		t.Errorf("it says %q hold and %q are unknown", verdicts(&r, "yes"), verdicts(&r, "unknown"))
	}
	code, out, _ = x.call(t, "", "doctor")
	if code != 1 || !strings.Contains(out, "failure    kafka\n") || !strings.Contains(out, "unknown  What was accepted is kept") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if code, _, _ := x.call(t, "", "doctor", "please"); code != 2 {
		t.Errorf("wrong usage: exit code %d", code)
	}
}

func with(statuses map[string]string, check, status string) map[string]string {
	all := maps.Clone(statuses)
	all[check] = status
	return all
}

// holds are the promises that hold.
func holds(r *diagnosis) string { return verdicts(r, "yes") }

// broken are the promises that do not, but for the one that one broker breaks.
func broken(r *diagnosis) string {
	return strings.TrimSpace(strings.TrimSuffix(verdicts(r, "no"), string(promisePower)))
}

func verdicts(r *diagnosis, answer string) string {
	var names []string
	for _, v := range r.Promises {
		if v.Holds == answer {
			names = append(names, string(v.Promise))
		}
	}
	return strings.Join(names, " ")
}
