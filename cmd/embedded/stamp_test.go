package embedded_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/cmd/embedded"
)

// A topic with LogAppendTime believes no producer's clock, whatever the compression, within a transaction or not; another topic does.
func TestLogAppendTime(t *testing.T) {
	broker, err := embedded.NewKafka()
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	stamped := "LogAppendTime"
	for name, codec := range map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	} {
		for _, transactional := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s transactional=%t", name, transactional), func(t *testing.T) {
				opts := []kgo.Opt{kgo.SeedBrokers(broker.ListenAddrs()...), kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(50 * time.Millisecond)}
				if transactional {
					opts = append(opts, kgo.TransactionalID(t.Name()))
				}
				client, err := kgo.NewClient(opts...)
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				topics := []string{fmt.Sprint("stamped-", name, transactional), fmt.Sprint("plain-", name, transactional)}
				adm := kadm.NewClient(client)
				if _, err := adm.CreateTopic(t.Context(), 1, 1, map[string]*string{"message.timestamp.type": &stamped}, topics[0]); err != nil {
					t.Fatal(err)
				}
				if _, err := adm.CreateTopic(t.Context(), 1, 1, nil, topics[1]); err != nil {
					t.Fatal(err)
				}
				now := time.Now().Truncate(time.Millisecond)
				if transactional {
					if err := client.BeginTransaction(); err != nil {
						t.Fatal(err)
					}
				}
				times := []time.Time{now, now.Add(-time.Hour), now.AddDate(-20, 0, 0), now.Add(time.Minute), now}
				var sent []*kgo.Record
				for _, topic := range topics {
					for i, at := range times {
						sent = append(sent, &kgo.Record{Topic: topic, Key: []byte("k"), Value: fmt.Append(nil, "value ", i), Timestamp: at, Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("v")}}})
					}
				}
				if err := client.ProduceSync(t.Context(), sent...).FirstErr(); err != nil {
					t.Fatal(err)
				}
				if transactional {
					if err := client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
						t.Fatal(err)
					}
				}
				reader, err := kgo.NewClient(kgo.SeedBrokers(broker.ListenAddrs()...), kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
				if err != nil {
					t.Fatal(err)
				}
				defer reader.Close()
				got := map[string][]*kgo.Record{}
				for n := 0; n < len(sent); {
					fetches := reader.PollFetches(t.Context())
					if err := fetches.Err(); err != nil {
						t.Fatal(err)
					}
					fetches.EachRecord(func(r *kgo.Record) { got[r.Topic] = append(got[r.Topic], r); n++ })
				}
				for i, r := range got[topics[0]] {
					if off := r.Timestamp.Sub(now).Abs(); off > 5*time.Second {
						t.Errorf("record %d is %v away", i, off)
					}
					if diff := cmp.Diff([]string{"k", fmt.Sprint("value ", i), "h", "v"}, []string{string(r.Key), string(r.Value), r.Headers[0].Key, string(r.Headers[0].Value)}); diff != "" {
						t.Error(diff)
					}
				}
				for i, r := range got[topics[1]] {
					if !r.Timestamp.Equal(times[i]) {
						t.Errorf("record %d of the other topic is of %v, not %v", i, r.Timestamp, times[i])
					}
				}
			})
		}
	}
}
