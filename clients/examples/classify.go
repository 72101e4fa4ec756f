// Classify an image file with a served model. Needs Go and nothing else:
//
//	go run clients/examples/classify.go cat.jpg http://localhost:8000 delugenet38
//
// The request is KServe's open inference protocol with Triton's binary data: a header in JSON,
// followed by the content of the file, in the form of a BYTES tensor.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"
)

type object = map[string]any

func main() {
	url, model := "http://localhost:8000", "delugenet38"
	if len(os.Args) > 2 {
		url = os.Args[2]
	}
	if len(os.Args) > 3 {
		model = os.Args[3]
	}
	image, err := os.ReadFile(os.Args[1])
	check(err)
	header, err := json.Marshal(object{
		"inputs": []object{{
			"name": "image", "shape": []int{1, 1}, "datatype": "BYTES",
			"parameters": object{"binary_data_size": 4 + len(image)},
		}},
		"outputs": []object{{
			"name":       "probabilities",
			"parameters": object{"classification": 3, "binary_data": false},
		}},
	})
	check(err)
	body := bytes.NewBuffer(header)
	// The length of each value, in four bytes, little endian, comes before it.
	check(binary.Write(body, binary.LittleEndian, uint32(len(image))))
	body.Write(image)

	request, err := http.NewRequest("POST", url+"/v2/models/"+model+"_image/infer", body)
	check(err)
	request.Header.Set("Inference-Header-Content-Length", strconv.Itoa(len(header)))
	client := http.Client{Timeout: 30 * time.Second}
	response, err := client.Do(request)
	check(err)
	defer response.Body.Close()

	var answer struct {
		Error   string
		Outputs []struct{ Data []string } // "0.985412:3:cat"
	}
	check(json.NewDecoder(response.Body).Decode(&answer))
	if answer.Error != "" {
		check(fmt.Errorf("%s", answer.Error))
	}
	for _, text := range answer.Outputs[0].Data {
		fmt.Println(text)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
