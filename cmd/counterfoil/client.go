package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caarlos0/env/v11"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// This file is what the commands share that an operator calls: arguments, a connection to Kafka and the registry, reading a topic up to a position,
// and what they draw.

// usageError says that a command was called wrongly; it makes the exit code 2.
type usageError string

func (e usageError) Error() string        { return string(e) }
func (e usageError) Is(target error) bool { return target == errUsage }

func badUsage(format string, args ...any) error { return usageError(fmt.Sprintf(format, args...)) }

// parse reads flags wherever they stand, where package flag stops at the first argument, and returns the arguments between them.
func parse(flags *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			return rest, nil
		}
		rest, args = append(rest, flags.Arg(0)), flags.Args()[1:]
	}
}

// checkTenant refuses what cannot be a tenant: it is part of record keys, before a slash.
func checkTenant(tenant string) error {
	switch {
	case tenant == "":
		return badUsage("--tenant is missing: whose data is it?")
	case !utf8.ValidString(tenant) || strings.ContainsAny(tenant, "/\x00"):
		return badUsage("--tenant %q is not a tenant: it must be UTF-8 without slashes", tenant)
	}
	return nil
}

// clientConfig is the part of the configuration that the commands need which talk to Kafka and the registry only.
type clientConfig struct {
	Kafka    KafkaConfig
	Registry schemas.RegistryConfig
}

// kafkaAndRegistry reads the configuration of the two.
func kafkaAndRegistry(app *app) (*clientConfig, *schemas.Registry, error) {
	var cfg clientConfig
	if err := env.ParseWithOptions(&cfg, env.Options{Environment: env.ToMap(app.environ)}); err != nil {
		return nil, nil, fmt.Errorf("the configuration is wrong: %w\n`counterfoil config` lists all settings with their meaning", err)
	}
	if err := cfg.Registry.Validate(); err != nil {
		return nil, nil, err
	}
	registry, err := schemas.NewRegistry(cfg.Registry, warnings(app))
	return &cfg, registry, err
}

// reachTopics connects to the two: kafka makes further clients, client is connected.
func reachTopics(ctx context.Context, app *app) (kafka []kgo.Opt, client *kgo.Client, registry *schemas.Registry, err error) {
	cfg, registry, err := kafkaAndRegistry(app)
	if err != nil {
		return nil, nil, nil, err
	}
	if kafka, err = cfg.Kafka.Opts(); err != nil {
		return nil, nil, nil, err
	}
	client, err = reachKafka(ctx, cfg.Kafka)
	return kafka, client, registry, err
}

// warnings is the log of a command that an operator calls.
func warnings(app *app) *slog.Logger {
	return slog.New(slog.NewTextHandler(app.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// attended is an installation that runs while audit and replay look at it.
type attended struct {
	*parts
	client *kgo.Client
	adm    *kadm.Client
	say    func(doing string)
	end    func() // of say
}

// attend connects.
func attend(ctx context.Context, app *app) (*attended, error) {
	cfg, err := loadConfig(app.environ)
	if err != nil {
		return nil, err
	}
	client, err := reachKafka(ctx, cfg.Kafka)
	if err != nil {
		return nil, err
	}
	p, err := connect(ctx, cfg, warnings(app))
	if err != nil {
		client.Close()
		return nil, err
	}
	in := &attended{parts: p, client: client, adm: kadm.NewClient(client)}
	in.say, in.end = showDoing(app.stderr)
	return in, nil
}

func (in *attended) leave() {
	in.end()
	in.conn.Close()
	in.client.Close()
}

// showDoing returns what draws a line of progress in place of the one before, at most five times a second and on a terminal only, and what
// removes it.
func showDoing(w io.Writer) (say func(string), end func()) {
	if !isTerminal(w) {
		return func(string) {}, func() {}
	}
	var last time.Time
	say = func(doing string) {
		if time.Since(last) > 200*time.Millisecond {
			last = time.Now()
			fmt.Fprintf(w, "\r\x1b[K%s", doing)
		}
	}
	return say, func() { fmt.Fprint(w, "\r\x1b[K") }
}

// endOffsets are the high watermarks of a topic's partitions, in the order of the partitions. They are read uncommitted: what was
// acknowledged before is below them, even where its transaction's marker is not written yet.
func endOffsets(ctx context.Context, adm *kadm.Client, topic string) (starts, ends []int64, err error) {
	s, err := adm.ListStartOffsets(ctx, topic)
	if err == nil {
		err = topicError(topic, s.Error())
	}
	if err != nil {
		return nil, nil, err
	}
	e, err := adm.ListEndOffsets(ctx, topic)
	if err == nil {
		err = topicError(topic, e.Error())
	}
	if err != nil {
		return nil, nil, err
	}
	for p := range int32(len(e[topic])) {
		start, _ := s.Lookup(topic, p)
		end, ok := e.Lookup(topic, p)
		if !ok {
			return nil, nil, fmt.Errorf("Kafka did not say where partition %d of topic %s ends: try again", p, topic)
		}
		starts, ends = append(starts, start.Offset), append(ends, end.Offset)
	}
	if len(ends) == 0 {
		return nil, nil, topicError(topic, kerr.UnknownTopicOrPartition)
	}
	return starts, ends, nil
}

// topicError says what to do about a topic that Kafka does not have.
func topicError(topic string, err error) error {
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, kerr.UnknownTopicOrPartition):
		return fmt.Errorf("ask Kafka about topic %s: %w", topic, err)
	}
	if _, ours := schemas.TopicNamed(topic); ours {
		return fmt.Errorf("topic %s does not exist: run counterfoil migrate first", topic)
	}
	return fmt.Errorf("topic %s does not exist: ours are %s", topic, strings.Join(schemas.TopicNames(), ", "))
}

// noEnd reads a partition for ever.
const noEnd = int64(1<<63 - 1)

// topicReader reads topics, read committed, for the commands.
type topicReader struct {
	kafka    []kgo.Opt     // of a client
	log      *slog.Logger  // is told what a reading waits for
	notice   time.Duration // without a record, after which it is told
	patience time.Duration // without a record, after which a reading gives up
}

// newTopicReader has the patience for any transaction that Kafka ends by itself, as it is configured by default (after 15 minutes).
func newTopicReader(kafka []kgo.Opt, log *slog.Logger) topicReader {
	return topicReader{kafka: kafka, log: log, notice: 10 * time.Second, patience: 16 * time.Minute}
}

// read reads each partition p of a topic from from[p] until its position has passed to[p], and calls each for every record below to[p]; it ends
// early where each returns false. Records of one partition come in order. It is an error when nothing comes for so long that a transaction must
// be open which nobody ends; a partition that is read for ever may have nothing for as long as it likes.
func (r topicReader) read(ctx context.Context, topic string, from, to []int64, each func(*kgo.Record) (more bool, err error)) error {
	offsets := map[int32]kgo.Offset{}
	for p := range from {
		if from[p] < to[p] {
			offsets[int32(p)] = kgo.NewOffset().At(from[p])
		}
	}
	if len(offsets) == 0 {
		return nil
	}
	client, err := kgo.NewClient(append(slices.Concat(r.kafka, schemas.ConsumeCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: offsets}),
		kgo.FetchMaxWait(250*time.Millisecond))...)
	if err != nil {
		return fmt.Errorf("Kafka: %w", err)
	}
	defer client.Close()
	last, told := time.Now(), false // when a record came, and whether it was told since that none does
	for len(offsets) > 0 {
		wait, cancel := context.WithTimeout(ctx, r.notice)
		fetches := client.PollFetches(wait)
		over := wait.Err() != nil
		cancel()
		if err := ctx.Err(); err != nil {
			return err
		}
		if open := slices.Sorted(maps.Keys(offsets)); fetches.NumRecords() == 0 && to[open[0]] != noEnd {
			const held = "nothing more of topic %s partitions %v can be read, though they go on to offset %d in partition %d"
			switch silent := time.Since(last); {
			case silent >= r.patience:
				return fmt.Errorf(held+": a transaction that nobody ends holds it back; counterfoil doctor names it, and says what to do",
					topic, open, to[open[0]], open[0])
			case silent >= r.notice && !told:
				told = true
				r.log.Warn(fmt.Sprintf(held+": waiting for Kafka, or for the end of a transaction, which counterfoil lag names", topic, open, to[open[0]], open[0]))
			}
		}
		for _, failed := range fetches.Errors() {
			if !over || failed.Topic != "" { // else it says that the poll is over
				return fmt.Errorf("read topic %s partition %d: %w", failed.Topic, failed.Partition, failed.Err)
			}
		}
		for it := fetches.RecordIter(); !it.Done(); {
			rec := it.Next()
			if _, open := offsets[rec.Partition]; !open {
				continue
			}
			if rec.Offset >= to[rec.Partition]-1 {
				delete(offsets, rec.Partition)
				client.PauseFetchPartitions(map[string][]int32{topic: {rec.Partition}})
			}
			if rec.Offset < to[rec.Partition] && !rec.Attrs.IsControl() {
				if more, err := each(rec); err != nil || !more {
					return err
				}
			}
			last, told = time.Now(), false
		}
	}
	return nil
}

// isTerminal reports whether w is a terminal: only there progress is drawn.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// grouped writes a number with thousands separated.
func grouped(n int64) string {
	text := fmt.Sprint(n)
	var parts []string
	for len(text) > 3 {
		parts = append(parts, text[len(text)-3:])
		text = text[:len(text)-3]
	}
	parts = append(parts, text)
	slices.Reverse(parts)
	return strings.Join(parts, ",")
}
