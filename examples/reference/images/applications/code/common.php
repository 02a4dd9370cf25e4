<?php
// The version of the code is a file in the code's volume; the version of the PHP image is in its environment.

function version(): string
{
    return trim(file_get_contents(__DIR__ . '/VERSION'));
}

// A command for redis over a plain socket: no extension needed.
function redis(string ...$words): string
{
    $socket = fsockopen('redis', 6379, $code, $error, 2);
    if (!$socket) {
        throw new RuntimeException("redis: $error");
    }
    $request = '*' . count($words) . "\r\n";
    foreach ($words as $word) {
        $request .= '$' . strlen($word) . "\r\n$word\r\n";
    }
    fwrite($socket, $request);
    $answer = fgets($socket);
    fclose($socket);
    return substr(trim($answer), 1);
}

header('X-Version: ' . version());
header('X-Fpm-Version: ' . getenv('FPM_VERSION'));
header('Cache-Control: no-store');
