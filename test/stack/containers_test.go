package stack

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestContainersAreOfTheImagesInTheComposeFile(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{kafkaImage, clickhouseImage} {
		if !strings.Contains(string(text), "image: "+image+"\n") {
			t.Errorf("docker-compose.yml has no image %s", image)
		}
	}
}
