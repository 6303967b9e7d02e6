package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/adopt"
	"github.com/counterfoil/counterfoil/processors"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

func migrateCommand() *command {
	var dryRun bool
	return &command{
		name:    "migrate",
		args:    "[--dry-run]",
		summary: "prepare Kafka, the schema registry and ClickHouse for this version",
		help: `Creates the topics, registers the schemas after checking that they are compatible with every version registered before, creates or changes
the tables and views in ClickHouse, and notes where each consumer group begins. Run it before the first start and with each new version;
running it again, or twice at once, changes nothing.

It refuses, before it changes anything in Kafka, where a schema is not compatible, where a migration that was applied has another text now, and
where a topic, what ClickHouse had, or a group's offsets were lost since the last run: counterfoil adopt says what that means and goes on from
there.

Example:
  KAFKA_BROKERS=kafka-1:9092 CLICKHOUSE_ADDR=ch-1:9000 SCHEMA_REGISTRY_URL=http://registry:8081 counterfoil migrate --dry-run`,
		flags: func(f *flag.FlagSet) {
			f.BoolVar(&dryRun, "dry-run", false, "say what would be done, and do nothing")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			if len(args) > 0 {
				return badUsage("migrate takes flags only, not %q", args[0])
			}
			cfg, err := loadConfig(app.environ)
			if err != nil {
				return err
			}
			return migrate(ctx, cfg, newLogger(cfg.Common, app.stderr), app.stdout, dryRun)
		},
	}
}

// installation is what migrate prepares and adopt takes over.
type installation struct {
	cfg      *Config
	log      *slog.Logger
	client   *kgo.Client
	adm      *kadm.Client
	registry *schemas.Registry
	conn     *clickhouse.Conn
}

// reach connects to Kafka, the registry and ClickHouse.
func reach(ctx context.Context, cfg *Config, log *slog.Logger) (*installation, error) {
	client, err := reachKafka(ctx, cfg.Kafka)
	if err != nil {
		return nil, err
	}
	in := &installation{cfg: cfg, log: log, client: client, adm: kadm.NewClient(client)}
	if in.registry, err = schemas.NewRegistry(cfg.Registry, log); err == nil {
		in.conn, err = clickhouse.Open(ctx, cfg.ClickHouse)
	}
	if err != nil {
		client.Close()
		return nil, err
	}
	return in, nil
}

func (in *installation) close() {
	in.client.Close()
	_ = in.conn.Close()
}

// migrate brings Kafka, the registry and ClickHouse to what this binary needs and says each step on out. What can refuse comes first.
func migrate(ctx context.Context, cfg *Config, log *slog.Logger, out io.Writer, dryRun bool) error {
	in, err := reach(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer in.close()
	return in.migrate(ctx, out, dryRun)
}

func (in *installation) migrate(ctx context.Context, out io.Writer, dryRun bool) error {
	say := func(format string, args ...any) {
		if dryRun {
			format = "would " + format
		}
		fmt.Fprintf(out, format+"\n", args...)
	}
	if err := in.migrateClickHouse(ctx, say, dryRun); err != nil {
		return err
	}
	if err := in.checkTopics(ctx); err != nil {
		return err
	}
	if err := in.createTopics(ctx, say, dryRun); err != nil || dryRun {
		return err
	}
	ids, err := awaitTopics(ctx, in.adm)
	if err != nil {
		return err
	}
	if err := recordEpochs(ctx, in.conn, ids, say); err != nil {
		return err
	}
	return recordOffsets(ctx, in.conn, in.adm, say)
}

// migrateClickHouse changes tables and views, when it is known that the schemas can be registered.
func (in *installation) migrateClickHouse(ctx context.Context, say func(string, ...any), dryRun bool) error {
	if _, err := in.registry.Register(ctx, true); err != nil {
		return err
	}
	steps, err := in.conn.Migrate(ctx, dryRun)
	if err != nil {
		return err
	}
	for _, step := range steps {
		say("apply ClickHouse migration %s", step)
	}
	return nil
}

// checkTopics refuses what adopt is for.
func (in *installation) checkTopics(ctx context.Context) error {
	known, err := in.conn.TopicEpochs(ctx)
	if err != nil {
		return err
	}
	ids, err := topicIDs(ctx, in.adm)
	if err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return err
	}
	if err := sameTopics(known, ids); err != nil {
		return err
	}
	var lost []error
	for _, err := range each(checkOffsets(ctx, in.conn, in.adm)) {
		var needed *adopt.NeededError
		if errors.As(err, &needed) {
			lost = append(lost, err) // others are for migrate to mend
		}
	}
	if len(lost) > 0 {
		return errors.Join(lost...)
	}
	deps, err := in.adoptDeps()
	if err != nil {
		return err
	}
	return adopt.CheckHistory(ctx, deps)
}

// createTopics creates the topics that are missing, and registers their schemas.
func (in *installation) createTopics(ctx context.Context, say func(string, ...any), dryRun bool) error {
	if err := createTopics(ctx, in.adm, in.cfg.Topics, say, dryRun); err != nil {
		return err
	}
	added, err := in.registry.Register(ctx, dryRun)
	for _, topic := range added {
		say("register the schema of %s", topic)
	}
	return err
}

// createTopics creates what is missing. Topics that exist keep their partitions; new ones get as many as the others have.
func createTopics(ctx context.Context, adm *kadm.Client, cfg TopicsConfig, say func(string, ...any), dryRun bool) error {
	meta, err := adm.Metadata(ctx)
	if err != nil {
		return fmt.Errorf("read Kafka's metadata: %w", err)
	}
	partitions, replication := cfg.Partitions, cfg.Replication
	for _, t := range schemas.Topics() {
		if have, ok := meta.Topics[t.Name]; ok && have.Err == nil && len(have.Partitions) > 0 && t.Partitions == 0 {
			partitions = len(have.Partitions)
			break
		}
	}
	if replication == 0 {
		replication = min(3, len(meta.Brokers))
	}
	for _, t := range schemas.Topics() {
		if have, ok := meta.Topics[t.Name]; ok && have.Err == nil {
			if want := t.Partitions; want > 0 && len(have.Partitions) != want {
				return fmt.Errorf("topic %s has %d partitions, it must have %d: it was not created by counterfoil migrate", t.Name, len(have.Partitions), want)
			}
			continue
		}
		n := t.Partitions
		if n == 0 {
			n = partitions
		}
		say("create topic %s with %d partitions, replication %d", t.Name, n, replication)
		if dryRun {
			continue
		}
		// Not left to the broker's default: an unclean election throws acknowledged records away.
		config := map[string]*string{"unclean.leader.election.enable": kadm.StringPtr("false")}
		for k, v := range t.Config {
			config[k] = &v
		}
		if replication >= 3 {
			config["min.insync.replicas"] = kadm.StringPtr("2")
		}
		_, err := adm.CreateTopic(ctx, int32(n), int16(replication), config, t.Name)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) { // another migrate was faster
			return fmt.Errorf("create topic %s: %w", t.Name, err)
		}
	}
	return nil
}

// untilKafka calls f until it succeeds, fails for good, or Kafka had a minute to get ready: a young broker makes the topics behind groups and
// transactions at their first use, and has no coordinator meanwhile.
func untilKafka(ctx context.Context, f func() error) error {
	deadline := time.Now().Add(time.Minute)
	for {
		err := f()
		if err == nil || !kerr.IsRetriable(err) || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// fetchOffsets are the commits of a group; none where there is no such group yet.
func fetchOffsets(ctx context.Context, adm *kadm.Client, group string) (committed kadm.OffsetResponses, err error) {
	err = untilKafka(ctx, func() error {
		committed, err = adm.FetchOffsets(ctx, group)
		return err
	})
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, fmt.Errorf("read the offsets of group %s: %w", group, err)
	}
	return committed, nil
}

// awaitTopics returns the topics' ids once every topic is there and every partition has a leader. A broker may answer that a topic is created
// before its own metadata, and that of the others, shows it.
func awaitTopics(ctx context.Context, adm *kadm.Client) (map[string]string, error) {
	var ids map[string]string
	err := untilKafka(ctx, func() (err error) {
		if ids, err = topicIDs(ctx, adm); err != nil {
			return err
		}
		starts, err := adm.ListStartOffsets(ctx, slices.Collect(maps.Keys(ids))...)
		if err != nil {
			return err
		}
		return starts.Error()
	})
	return ids, err
}

// topicIDs are Kafka's ids of our topics; a topic that was deleted and created anew has another one. Beside an error that some do not exist
// (kerr.UnknownTopicOrPartition) are those of the others.
func topicIDs(ctx context.Context, adm *kadm.Client) (map[string]string, error) {
	var names []string
	for _, t := range schemas.Topics() {
		names = append(names, t.Name)
	}
	details, err := adm.ListTopics(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	ids := map[string]string{}
	var problems []error
	for _, name := range names {
		d, ok := details[name]
		switch {
		case !ok || errors.Is(d.Err, kerr.UnknownTopicOrPartition):
			problems = append(problems, fmt.Errorf("topic %s does not exist: run counterfoil migrate (%w)", name, kerr.UnknownTopicOrPartition))
		case d.Err != nil:
			return nil, fmt.Errorf("topic %s: %w", name, d.Err)
		default:
			ids[name] = d.ID.String()
		}
	}
	return ids, errors.Join(problems...)
}

// recordEpochs notes the id of each topic that is met for the first time, and refuses ids that differ from those noted.
func recordEpochs(ctx context.Context, conn *clickhouse.Conn, ids map[string]string, say func(string, ...any)) error {
	known, err := conn.TopicEpochs(ctx)
	if err != nil {
		return err
	}
	if err := sameTopics(known, ids); err != nil {
		return err
	}
	for _, t := range schemas.Topics() {
		if _, ok := known[t.Name]; ok {
			continue
		}
		say("record topic %s (id %s) as epoch 0", t.Name, ids[t.Name])
		if err := conn.RecordTopicEpoch(ctx, t.Name, clickhouse.TopicEpoch{ID: ids[t.Name]}); err != nil {
			return err
		}
	}
	return nil
}

// sameTopics refuses topics that were created anew, or deleted, since ClickHouse noted their ids: positions in the tables would mean other
// records.
func sameTopics(known map[string]clickhouse.TopicEpoch, ids map[string]string) error {
	var problems []error
	for _, t := range schemas.Topics() {
		k, ok := known[t.Name]
		id, exists := ids[t.Name]
		switch {
		case !ok:
		case !exists:
			problems = append(problems, fmt.Errorf("topic %s does not exist, ClickHouse knows it with id %s", t.Name, k.ID))
		case k.ID != id:
			problems = append(problems, fmt.Errorf("topic %s has id %s, ClickHouse knows it as %s", t.Name, id, k.ID))
		}
	}
	if len(problems) == 0 {
		return nil
	}
	return &adopt.NeededError{Problem: fmt.Errorf("Kafka and ClickHouse do not belong together: a topic was deleted or created anew, or one of two data folders was wiped. "+
		"Bring the missing one back; or let counterfoil adopt say what was lost, and go on without it:\n%w", errors.Join(problems...))}
}

// groups are the consumer groups with the topics that they read.
func groups() map[string][]string {
	g := judges()
	g[schemas.GroupSink] = clickhouse.Topics()
	return g
}

// judges are those of the processors.
func judges() map[string][]string {
	g := map[string][]string{}
	for _, name := range processors.Names() {
		g[processors.Group(name)] = processors.Topics(name)
	}
	return g
}

// recordOffsets commits the log's start for each (topic, group) that ClickHouse does not know yet, and refuses groups whose commits are gone:
// they would begin somewhere else without anybody seeing it.
func recordOffsets(ctx context.Context, conn *clickhouse.Conn, adm *kadm.Client, say func(string, ...any)) error {
	known, err := conn.GroupStarts(ctx)
	if err != nil {
		return err
	}
	epochs, err := conn.TopicEpochs(ctx)
	if err != nil {
		return err
	}
	for group, topics := range groups() {
		committed, err := fetchOffsets(ctx, adm, group)
		if err != nil {
			return err
		}
		starts, err := adm.ListStartOffsets(ctx, topics...)
		if err == nil {
			err = starts.Error()
		}
		if err != nil {
			return fmt.Errorf("read where the topics of group %s begin: %w", group, err)
		}
		begin := kadm.Offsets{}
		var fresh []clickhouse.GroupStart
		for _, topic := range topics {
			start := clickhouse.GroupStart{Topic: topic, Epoch: epochs[topic].Number, Group: group}
			if slices.Contains(known, start) {
				continue
			}
			fresh = append(fresh, start)
			for partition, at := range starts[topic] {
				if _, ok := committed.Lookup(topic, partition); !ok {
					// Nobody holds it: the sink need not wait for the lease of a predecessor.
					begin.Add(kadm.Offset{Topic: topic, Partition: partition, At: at.Offset, LeaderEpoch: -1, Metadata: clickhouse.CommitMetadata(true, epochs[topic].Epoch)})
				}
			}
		}
		if len(begin) > 0 {
			say("let group %s begin at the start of %d topics", group, len(begin))
			done, err := adm.CommitOffsets(ctx, group, begin)
			if err == nil {
				err = done.Error()
			}
			if errors.Is(err, kerr.UnknownMemberID) {
				return fmt.Errorf("group %s has running members, so that Kafka takes no first offsets for topics that are new to it: stop them, run migrate, start them again", group)
			}
			if err != nil {
				return fmt.Errorf("commit the first offsets of group %s: %w", group, err)
			}
		}
		for _, start := range fresh {
			if err := conn.RecordGroupStart(ctx, start); err != nil {
				return err
			}
		}
	}
	return checkOffsets(ctx, conn, adm)
}

// checkOffsets refuses groups that ClickHouse has seen begin and whose commits Kafka no longer has.
func checkOffsets(ctx context.Context, conn *clickhouse.Conn, adm *kadm.Client) error {
	known, err := conn.GroupStarts(ctx)
	if err != nil {
		return err
	}
	ends := map[string]int{}
	details, err := adm.ListTopics(ctx)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	for name, d := range details {
		ends[name] = len(d.Partitions)
	}
	epochs, err := conn.TopicEpochs(ctx)
	if err != nil {
		return err
	}
	var problems []error
	for group, topics := range groups() {
		committed, err := fetchOffsets(ctx, adm, group)
		if err != nil {
			return err
		}
		for _, topic := range topics {
			if !slices.Contains(known, clickhouse.GroupStart{Topic: topic, Epoch: epochs[topic].Number, Group: group}) {
				problems = append(problems, fmt.Errorf("group %s has no first offsets for topic %s: run counterfoil migrate", group, topic))
				continue
			}
			for partition := range ends[topic] {
				if o, ok := committed.Lookup(topic, int32(partition)); !ok || o.At < 0 {
					problems = append(problems, &adopt.NeededError{Problem: fmt.Errorf("group %s lost its offset of topic %s partition %d: Kafka forgot it "+
						"(offsets.retention.minutes) or it was deleted; counterfoil adopt --offsets says where it must go on", group, topic, partition)})
				}
			}
		}
	}
	return errors.Join(problems...)
}

// checkPrepared is what every role asks at its start: are the topics the ones that ClickHouse knows, and does every group still have its
// commits? It returns the epochs.
func checkPrepared(ctx context.Context, conn *clickhouse.Conn, adm *kadm.Client) (schemas.Epochs, error) {
	known, err := conn.TopicEpochs(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := topicIDs(ctx, adm)
	if err != nil {
		if needed := sameTopics(known, ids); ids != nil && needed != nil {
			return nil, needed
		}
		return nil, err
	}
	epochs := schemas.Epochs{}
	for topic := range ids {
		k, ok := known[topic]
		if !ok {
			return nil, fmt.Errorf("ClickHouse does not know topic %s yet: run counterfoil migrate", topic)
		}
		epochs[topic] = k.Epoch
	}
	if err := sameTopics(known, ids); err != nil {
		return nil, err
	}
	return epochs, checkOffsets(ctx, conn, adm)
}
