package main

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/cmd/embedded"
	"github.com/counterfoil/counterfoil/schemas"
)

// What topics are made with beside the table of topics, by the number of brokers.
func TestTopicsAreMadeSafe(t *testing.T) {
	for _, c := range []struct {
		brokers int
		least   string // min.insync.replicas
	}{{1, "1"}, {2, "1"}, {3, "2"}} {
		cluster, err := embedded.NewKafka(kfake.NumBrokers(c.brokers))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cluster.Close)
		client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		adm := kadm.NewClient(client)
		if err := createTopics(t.Context(), adm, TopicsConfig{Partitions: 2}, func(string, ...any) {}, false); err != nil {
			t.Fatal(err)
		}
		described, err := adm.DescribeTopicConfigs(t.Context(), schemas.TopicNames()...)
		if err != nil || len(described) != len(schemas.Topics()) {
			t.Fatalf("%d topics, %v", len(described), err)
		}
		for _, topic := range described {
			values := settingsOf(topic)
			if topic.Err != nil || values["unclean.leader.election.enable"] != "false" || values["min.insync.replicas"] != c.least {
				t.Errorf("%d brokers, topic %s: %v %v", c.brokers, topic.Name, topic.Err, values)
			}
		}
	}
}
