// Classify an image file with a served model. Needs Java 17 and nothing else:
//
//     java clients/examples/Classify.java cat.jpg http://localhost:8000 delugenet38
//
// The request is KServe's open inference protocol with Triton's binary data: a header in JSON,
// followed by the content of the file, in the form of a BYTES tensor.

import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;

public class Classify {
    public static void main(String[] arguments) throws Exception {
        byte[] image = Files.readAllBytes(Path.of(arguments[0]));
        String url = arguments.length > 1 ? arguments[1] : "http://localhost:8000";
        String model = arguments.length > 2 ? arguments[2] : "delugenet38";

        // The length of each value, in four bytes, little endian, comes before it.
        byte[] length = ByteBuffer.allocate(4).order(ByteOrder.LITTLE_ENDIAN).putInt(image.length).array();
        byte[] header = ("{\"inputs\": [{\"name\": \"image\", \"shape\": [1, 1], \"datatype\": \"BYTES\","
                + " \"parameters\": {\"binary_data_size\": " + (4 + image.length) + "}}],"
                + " \"outputs\": [{\"name\": \"probabilities\","
                + " \"parameters\": {\"classification\": 3, \"binary_data\": false}}]}")
                .getBytes(StandardCharsets.UTF_8);
        ByteArrayOutputStream body = new ByteArrayOutputStream();
        body.write(header);
        body.write(length);
        body.write(image);

        HttpRequest request = HttpRequest.newBuilder(URI.create(url + "/v2/models/" + model + "_image/infer"))
                .header("Inference-Header-Content-Length", String.valueOf(header.length))
                .header("Content-Type", "application/octet-stream")
                .timeout(Duration.ofSeconds(30))
                .POST(HttpRequest.BodyPublishers.ofByteArray(body.toByteArray()))
                .build();
        HttpResponse<String> answer = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build()
                .send(request, HttpResponse.BodyHandlers.ofString());
        // {"outputs": [{"data": ["0.985412:3:cat", ...], ...}]}, or {"error": "..."}
        System.out.println(answer.body());
        System.exit(answer.statusCode() == 200 ? 0 : 1);
    }
}
