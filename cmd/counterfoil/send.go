package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/counterfoil/counterfoil/processors/matching"
	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/schemas/plainjson"
)

// Sizes of send.
const (
	chunkLines    = 10_000                 // lines that are checked as a whole before any of them is produced
	chunkBytes    = 16 << 20               // or so many bytes of them
	chunkWait     = 200 * time.Millisecond // or what came from standard input in this time
	maxLine       = 16 << 20               // bytes of a line
	maxNamed      = 50                     // lines whose defects are printed
	deliveryLimit = 2 * time.Minute        // for which Kafka may not answer before send gives up
	stopLimit     = 10 * time.Second       // the same after Ctrl-C
)

func sendCommand() *command {
	var opts sendOptions
	return &command{
		name:    "send",
		args:    "TOPIC FILE --tenant TENANT [flags]",
		summary: "produce JSON lines to an item, fact or reference topic, as an upstream system would",
		help: `Reads one JSON object a line from FILE (- is standard input), encodes it with the newest schema that the registry has for TOPIC, and produces
it with acks=all. Items are then judged like any other; their outcomes come on TOPIC.processed and TOPIC.unprocessed.

The JSON is plain: a nullable member is its value or null and may be left out, a decimal is a string or a number and is taken exactly as
written, a day is "2016-06-22", an instant is RFC 3339 (UTC where it names no zone) or milliseconds since 1970, bytes are base64. What does
not fit is refused by name, never rounded. counterfoil tail prints the same form.

Lines are checked before they are produced, 10,000 at a time: if one of them is wrong, each defect is named with its line and nothing from
this point on is sent. Correct the lines and run the same command again with --skip and the number that it names.

Examples:
  counterfoil send accounts accounts.jsonl --tenant acme
      {"id":"4A5EF3CF26BA4FD2AA1FD2F8AC1C52B1","number":"ACR0000000077","name":"Jane Doe"}
  counterfoil send customer_events - --tenant acme --ref-field ref <<'END'
      {"ref":"A-1","kind":"web","account":{"number":"ACR0000000077"},"unit":{"name":"Admin Unit"},"performed_on":"2016-06-22T15:00:00Z","website":"www.crm.com"}
  counterfoil send accounts gone.jsonl --tenant acme --delete
      {"id":"4A5EF3CF26BA4FD2AA1FD2F8AC1C52B1"}`,
		flags: func(f *flag.FlagSet) {
			f.StringVar(&opts.tenant, "tenant", "", "whose data it is; required")
			f.StringVar(&opts.refField, "ref-field", "", "member of each line that holds your own reference: it comes back with the outcome, and is not part of the record")
			f.BoolVar(&opts.remove, "delete", false, "reference and fact topics: delete the records that the lines name by their own id; other members are ignored, so that the file that was sent deletes what it made")
			f.IntVar(&opts.skip, "skip", 0, "leave out so many lines at the beginning: they were sent before")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			if len(args) != 2 {
				return badUsage("it takes a topic and a file (- for standard input), not %d arguments", len(args))
			}
			return send(ctx, app, args[0], args[1], opts)
		},
	}
}

type sendOptions struct {
	tenant, refField string
	remove           bool
	skip             int
}

// send checks what can be checked without a server, opens everything, and sends.
func send(ctx context.Context, app *app, topic, file string, opts sendOptions) error {
	t, err := sendable(topic, opts)
	if err != nil {
		return err
	}
	in, reader := app.stdin, "standard input"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("%w (- reads standard input)", err)
		}
		defer f.Close()
		in, reader = f, file
	}
	cfg, registry, err := kafkaAndRegistry(app)
	if err != nil {
		return err
	}
	codec, err := latestCodec(ctx, registry.Client(), topic)
	if err != nil {
		return err
	}
	client, err := reachKafka(ctx, cfg.Kafka,
		// Keys go where murmur2 says, as with every producer of ours, and records without one anywhere. The producer is idempotent and
		// waits for acks=all: the library's defaults.
		kgo.RecordPartitioner(kgo.UniformBytesPartitioner(256<<10, false, true, nil)),
		kgo.ProducerBatchMaxBytes(schemas.MaxItemBytes+64<<10), kgo.ProducerLinger(20*time.Millisecond),
		kgo.MaxBufferedRecords(4*chunkLines), kgo.RecordDeliveryTimeout(deliveryLimit))
	if err != nil {
		return err
	}
	defer client.Close()
	if _, _, err := endOffsets(ctx, kadm.NewClient(client), topic); err != nil {
		return err
	}
	s := &sender{topic: t, opts: opts, codec: codec, client: client, app: app, start: time.Now()}
	return s.run(ctx, in, reader, file == "-")
}

// sendable refuses topics that are not written from outside.
func sendable(topic string, opts sendOptions) (schemas.Topic, error) {
	takes := slices.DeleteFunc(schemas.TopicNames(schemas.RoleItem, schemas.RoleReference, schemas.RoleFact), func(name string) bool { return name == schemas.APIKeys })
	t, ok := schemas.TopicNamed(topic)
	switch {
	case topic == schemas.APIKeys:
		return t, badUsage("topic %s is written by: counterfoil keys", topic)
	case ok && !slices.Contains(takes, topic):
		return t, badUsage("topic %s is written by Counterfoil alone; send to one of %s", topic, strings.Join(takes, ", "))
	case !ok:
		return t, badUsage("there is no topic %q; send to one of %s", topic, strings.Join(takes, ", "))
	case opts.skip < 0:
		return t, badUsage("--skip is %d: give the number of lines that were sent before", opts.skip)
	case opts.remove && !keyed(t):
		return t, badUsage("--delete is for reference and fact topics: an item that was sent is judged, it cannot be taken back")
	case opts.refField != "" && t.Role != schemas.RoleItem:
		return t, badUsage("--ref-field is for items: reference and fact records have no outcome that could carry it")
	}
	return t, checkTenant(opts.tenant)
}

// latestCodec makes the codec of the newest schema of a topic.
func latestCodec(ctx context.Context, registry *sr.Client, topic string) (*plainjson.Codec, error) {
	s, err := registry.SchemaByVersion(ctx, schemas.Subject(topic), -1)
	var refused *sr.ResponseError
	switch {
	case errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("the schema registry has no schema for topic %s: run counterfoil migrate first", topic)
	case err != nil:
		return nil, fmt.Errorf("ask the schema registry for the schema of topic %s: %w (is it running? SCHEMA_REGISTRY_URL says where)", topic, err)
	}
	return plainjson.New(s.ID, s.Schema.Schema)
}

// sender sends the lines of one input.
type sender struct {
	topic  schemas.Topic
	opts   sendOptions
	codec  *plainjson.Codec
	client *kgo.Client
	app    *app
	start  time.Time

	mu     sync.Mutex
	acked  int64
	failed error // of the first record that Kafka did not take
}

// chunk is a run of lines.
type chunk struct {
	first int // number of the first line, from 1
	lines [][]byte
	err   error // why reading ended, after the lines
}

func (s *sender) run(ctx context.Context, in io.Reader, name string, trickles bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the reader, but for one that waits for standard input, which ends with the process
	// What was given to the producer is waited for, also when the user wants to stop, for a while: then it is known what was sent.
	producing, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(stopLimit, giveUp) })()
	chunks := readChunks(ctx, in, trickles)
	progress := s.showProgress()
	defer progress()

	done := s.opts.skip // lines up to and including this one were given to the producer
	var stop error
	for stop == nil {
		select {
		case <-ctx.Done():
			stop = errors.New("interrupted")
		case c, ok := <-chunks:
			if !ok {
				stop = io.EOF
				break
			}
			records, bad := s.encode(c)
			switch {
			case bad != nil:
				progress()
				bad.print(s.app.stderr)
				stop = fmt.Errorf("%s has %s", name, bad)
			case c.err != nil:
				stop = fmt.Errorf("read line %d of %s: %w", c.first+len(c.lines), name, c.err)
			}
			if bad == nil {
				s.produce(producing, records)
				done = max(done, c.first+len(c.lines)-1)
			}
			if err := s.failure(); err != nil {
				stop = err
			}
		}
	}
	flushed := s.client.Flush(producing)
	progress()
	if err := errors.Join(s.failure(), flushed); err != nil {
		return fmt.Errorf("Kafka did not take every record: %w\n%s of the records up to line %d were taken, it is not known which of the others were; "+
			"nothing from line %d on was sent", err, grouped(s.acked), done, done+1)
	}
	took := max(time.Since(s.start).Seconds(), 0.001)
	sent := fmt.Sprintf("sent %s records to %s in %.1f s (%s/s)", grouped(s.acked), s.topic.Name, took, grouped(int64(float64(s.acked)/took)))
	if errors.Is(stop, io.EOF) {
		fmt.Fprintln(s.app.stdout, sent)
		return nil
	}
	if done == s.opts.skip {
		return fmt.Errorf("%w: nothing was sent", stop)
	}
	return fmt.Errorf("%w: %s, which are the lines up to %d; nothing from line %d on was sent. To go on: the same command with --skip %d",
		stop, sent, done, done+1, done)
}

// readChunks reads lines until the input ends or ctx does. Where the input trickles, a chunk is what came within chunkWait.
func readChunks(ctx context.Context, in io.Reader, trickles bool) <-chan chunk {
	lines := make(chan []byte, 64)
	var readErr error // read once lines is closed
	go func() {
		defer close(lines)
		scanner := bufio.NewScanner(in)
		scanner.Buffer(make([]byte, 0, 64<<10), maxLine)
		for scanner.Scan() {
			select {
			case lines <- bytes.Clone(scanner.Bytes()):
			case <-ctx.Done():
				return
			}
		}
		if readErr = scanner.Err(); errors.Is(readErr, bufio.ErrTooLong) {
			readErr = fmt.Errorf("it is longer than %s bytes", grouped(maxLine))
		}
	}()
	chunks := make(chan chunk)
	go func() {
		defer close(chunks)
		for c := (chunk{first: 1}); ; c = (chunk{first: c.first + len(c.lines)}) {
			var wait <-chan time.Time
			size, open := 0, true
			for full := false; open && !full; {
				select {
				case line, ok := <-lines:
					if open = ok; !ok {
						break
					}
					c.lines = append(c.lines, line)
					size += len(line)
					full = len(c.lines) >= chunkLines || size >= chunkBytes
					if trickles && wait == nil {
						wait = time.After(chunkWait)
					}
				case <-wait:
					full = true
				case <-ctx.Done():
					return
				}
			}
			if !open {
				c.err = readErr
			}
			if len(c.lines) > 0 || c.err != nil {
				select {
				case chunks <- c:
				case <-ctx.Done():
					return
				}
			}
			if !open {
				return
			}
		}
	}()
	return chunks
}

// badLines are the defects of a chunk.
type badLines struct {
	lines int
	named []string
}

func (b *badLines) add(line int, defects ...string) {
	b.lines++
	if b.lines <= maxNamed {
		for _, d := range defects {
			b.named = append(b.named, fmt.Sprintf("line %d: %s", line, d))
		}
	}
}

func (b *badLines) print(w io.Writer) {
	for _, text := range b.named {
		fmt.Fprintln(w, text)
	}
	if b.lines > maxNamed {
		fmt.Fprintf(w, "and %s lines more\n", grouped(int64(b.lines-maxNamed)))
	}
}

func (b *badLines) String() string {
	if b.lines == 1 {
		return "a line that is not as the schema wants it, named above"
	}
	return fmt.Sprintf("%s lines that are not as the schema wants them, named above", grouped(int64(b.lines)))
}

// encode makes the records of a chunk; bad is nil when every line is good.
func (s *sender) encode(c chunk) (records []*kgo.Record, bad *badLines) {
	records = make([]*kgo.Record, 0, len(c.lines))
	for i, line := range c.lines {
		number := c.first + i
		if number == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff")) // some editors' mark of UTF-8
		}
		if number <= s.opts.skip || len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		rec, defects := s.record(line)
		if len(defects) > 0 {
			if bad == nil {
				bad = new(badLines)
			}
			bad.add(number, defects...)
			continue
		}
		records = append(records, rec)
	}
	return records, bad
}

// record makes the record of a line, or says what is wrong with it.
func (s *sender) record(line []byte) (*kgo.Record, []string) {
	o, err := plainjson.Parse(line)
	if err != nil {
		return nil, []string{err.Error()}
	}
	env := schemas.Envelope{Tenant: s.opts.tenant, Reply: -1}
	if s.opts.refField != "" {
		ref, bad := o.TakeRef(s.opts.refField)
		if bad != nil {
			return nil, []string{bad.Message}
		}
		env.Ref = ref
	}
	rec := &kgo.Record{Topic: s.topic.Name, Headers: env.Headers(nil)}
	if keyed(s.topic) {
		id, missing := plainjson.OwnID(s.topic.Name, o)
		if missing != "" {
			return nil, []string{fmt.Sprintf("%s is missing; a record of %s is known by it", missing, s.topic.Name)}
		}
		rec.Key = schemas.ReferenceKey(s.opts.tenant, id)
		if s.opts.remove {
			return rec, nil
		}
	}
	var defects []schemas.Reason
	if rec.Value, defects, err = s.codec.Append(nil, o); err != nil {
		return nil, []string{err.Error()}
	}
	if len(defects) > 0 {
		texts := make([]string, len(defects))
		for i, d := range defects {
			texts[i] = d.Message
		}
		return nil, texts
	}
	if len(rec.Value) > schemas.MaxItemBytes {
		return nil, []string{fmt.Sprintf("has %s bytes when encoded; a record may have %s", grouped(int64(len(rec.Value))), grouped(schemas.MaxItemBytes))}
	}
	if rec.Key == nil {
		rec.Key = itemKey(s.topic.Name, s.opts.tenant, o)
	}
	return rec, nil
}

// keyed tells the topics whose records have an own id, and are replaced and deleted by it.
func keyed(t schemas.Topic) bool {
	return t.Role == schemas.RoleReference || t.Role == schemas.RoleFact
}

// itemKey is the key that the engine judges an item under: with it the lines of one key stay in the file's order. Customer events have none.
func itemKey(topic, tenant string, o plainjson.Object) []byte {
	switch topic {
	case schemas.KindOwnership:
		user, _ := o.Get("user_name").(string)
		sku, _ := o.Get("product_sku").(string)
		return upserts.Key(tenant, &schemas.Ownership{UserName: &user, ProductSKU: &sku})
	case schemas.KindReferrals:
		return []byte(tenant)
	case schemas.KindSales:
		if id, _ := o.Get("id").(string); id != "" {
			return matching.Key(tenant, &schemas.Sale{ID: &id}, "")
		}
		return nil
	default:
		return nil
	}
}

// produce gives records to the client, which sends them in the background; it blocks while too many are on their way.
func (s *sender) produce(ctx context.Context, records []*kgo.Record) {
	for _, rec := range records {
		s.client.Produce(ctx, rec, func(_ *kgo.Record, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			switch {
			case err == nil:
				s.acked++
			case s.failed == nil:
				s.failed = err
			}
		})
	}
}

func (s *sender) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// showProgress draws how far it is, twice a second, on a terminal only. The function that it returns ends and removes that.
func (s *sender) showProgress() (end func()) {
	if !isTerminal(s.app.stderr) {
		return func() {}
	}
	quit, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				fmt.Fprint(s.app.stderr, "\r\x1b[K")
				return
			case <-tick.C:
				s.mu.Lock()
				acked := s.acked
				s.mu.Unlock()
				fmt.Fprintf(s.app.stderr, "\r\x1b[K%s records, %s/s", grouped(acked), grouped(int64(float64(acked)/time.Since(s.start).Seconds())))
			}
		}
	}()
	var once sync.Once
	return func() {
		once.Do(func() { close(quit) })
		<-gone
	}
}
